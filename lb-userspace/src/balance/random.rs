// SPDX-License-Identifier: MIT OR Apache-2.0
//! The better of two servers drawn at random.

use std::fmt;

use fastrand::Rng;

use super::{Member, Places};

/// Draws for each of the two candidates: enough for a second one that is not the first, or for one that is open where a few are
/// full.
const DRAWS: u32 = 8;

/// Of two servers that are drawn by weight, the one with fewer connections for its weight; the one drawn first if they have as many.
/// (M. Mitzenmacher: The power of two choices in randomized load balancing, IEEE TPDS 12, 2001.) Balancers that do not know of each
/// other do not all choose the same server, as they would with the least loaded of all.
///
/// The connection to come is left out of account: draws respect the weights already, so that idle servers get exactly their share,
/// while counting it would prefer the heavier one of two idle ones a second time.
///
/// A server that is full, or was tried, is drawn again for. If that does not help, the next open server from one drawn without regard
/// to weights is taken, so that a place is found as long as there is one.
pub struct Random {
    members: Box<[Member]>,
    /// For each member: how many numbers below `total` stand for it in its column, and the member that the others stand for.
    columns: Box<[(u64, u32)]>,
    /// Sum of weights.
    total: u64,
}

impl Random {
    /// Over `members`.
    pub fn new(members: Vec<Member>) -> Self {
        let total = members.iter().map(|member| u64::from(member.weight.get())).sum();
        Self { columns: columns(&members, total), members: members.into(), total }
    }

    /// Takes a place on a server that is not among `tried`, with the randomness of `seed`.
    pub fn pick(&self, places: &impl Places, seed: u64, tried: &[usize]) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        let mut random = Rng::with_seed(seed);
        let is_open = |member: &Member| {
            places.load(member.index) < places.limit(member.index) && !tried.contains(&member.index)
        };
        let mut draw = |wanted: &dyn Fn(&Member) -> bool| {
            (0..DRAWS).map(|_| self.draw(&mut random)).find(|member| wanted(member))
        };
        if let Some(first) = draw(&is_open) {
            let second = draw(&|member| member.index != first.index && is_open(member)).unwrap_or(first);
            let cost = |of: &Member, other: &Member| {
                u64::from(places.load(of.index)) * u64::from(other.weight.get())
            };
            let [better, other] =
                if cost(second, first) < cost(first, second) { [second, first] } else { [first, second] };
            if let Some(member) = [better, other].into_iter().find(|member| places.take(member.index)) {
                return Some(member.index);
            }
        }
        let start = random.usize(..self.members.len());
        let (before, after) = self.members.split_at(start);
        let open = after.iter().chain(before).filter(|member| !tried.contains(&member.index));
        open.map(|member| member.index).find(|index| places.take(*index))
    }

    /// Whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member, each with the probability that its weight says.
    fn draw(&self, random: &mut Rng) -> &Member {
        let column = random.usize(..self.members.len());
        let (own, alias) = self.columns[column];
        let is_own = random.u64(..self.total) < own;
        &self.members[if is_own { column } else { alias as usize }]
    }
}

/// Columns of equal size that are shared by two members at most, in which each member has its weight all in all (the alias method:
/// M. D. Vose, A linear algorithm for generating random numbers with a given distribution, IEEE TSE 17, 1991), in whole numbers.
fn columns(members: &[Member], total: u64) -> Box<[(u64, u32)]> {
    let mut left: Vec<u64> =
        members.iter().map(|member| u64::from(member.weight.get()) * members.len() as u64).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..members.len()).partition(|position| left[*position] < total);
    let mut columns: Box<[(u64, u32)]> = (0..members.len()).map(|own| (total, own as u32)).collect();
    while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
        columns[less] = (left[less], more as u32);
        left[more] -= total - left[less];
        if left[more] < total {
            small.extend(large.pop());
        }
    }
    columns
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random")
            .field("servers", &self.members.len())
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}
