// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables against their definitions, carried out word for word. Nodes of different versions share clients, so however tables are
//! made, they have to come out the same.

use super::*;

/// Each slot goes to whoever is there first: everybody's arrivals, one by one, until every slot has somebody and nobody can be sooner.
fn source(members: &[Member], slots: usize) -> Vec<usize> {
    let mut first = vec![(u64::MAX, u64::MAX, usize::MAX); slots];
    let moment = |member: &Member, step: u64| {
        let number = hash::mix(member.identity, step);
        (((step << 32) + (number >> 32)) / u64::from(member.weight.get()), number as usize % slots)
    };
    let mut until = 0;
    while first.iter().any(|(first, ..)| *first > until) {
        until += 1 << 36;
        for (position, member) in members.iter().enumerate() {
            let arrivals = (0..).map(|step| moment(member, step)).take_while(|(moment, _)| *moment <= until);
            for (moment, slot) in arrivals {
                first[slot] = first[slot].min((moment, member.identity, position));
            }
        }
    }
    first.into_iter().map(|(_, _, position)| position).collect()
}

/// One turn after the other, at `turn / weight`.
fn maglev(members: &[Member], slots: usize) -> Vec<usize> {
    let mut table = vec![usize::MAX; slots];
    let mut turns = vec![0_u64; members.len()];
    let skips = |member: &Member| 1 + hash::below(hash::mix(member.identity, 2), slots - 1);
    let mut next: Vec<usize> =
        members.iter().map(|member| hash::below(hash::mix(member.identity, 1), slots)).collect();
    for _ in 0..slots {
        let due = |position: &usize| {
            let Member { weight, identity, .. } = members[*position];
            ((turns[*position] << 32) / u64::from(weight.get()), identity, *position)
        };
        let position = (0..members.len()).min_by_key(due).unwrap();
        while table[next[position]] != usize::MAX {
            next[position] = (next[position] + skips(&members[position])) % slots;
        }
        table[next[position]] = position;
        turns[position] += 1;
    }
    table
}

fn check(members: &[Member], servers: usize) {
    let widened = |table: Box<[u32]>| table.iter().map(|slot| *slot as usize).collect::<Vec<_>>();
    let slots = race::slots(servers);
    assert!(widened(race::fill(members, slots)) == source(members, slots), "source: {members:?}");
    let slots = maglev::slots(servers);
    assert!(widened(maglev::fill(members, slots)) == maglev(members, slots), "maglev: {members:?}");
}

#[test]
fn nobody_has_no_slots() {
    assert_eq!(race::fill(&[], race::slots(3)).len(), 0);
    assert_eq!(maglev::fill(&[], maglev::slots(3)).len(), 0);
}

#[test]
fn tables_are_what_they_are_defined_to_be() {
    for weights in [&[1][..], &[256], &[1, 1], &[1, 256], &[2, 4, 8], &[u16::MAX, 1, 300]] {
        check(&members(weights), weights.len());
    }
    // Servers that cannot be told apart go by their order.
    let same = [1, 2, 2].map(|weight| Member { identity: 7, ..member(0, NonZeroU16::new(weight).unwrap()) });
    check(&same, 3);
    let unequal: Vec<u16> = (0..60).map(|server| 1 + server % 7).collect();
    check(&members(&unequal), 60);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_table_is_what_it_is_defined_to_be(
        weights in prop::collection::vec(0u16..=256, 1..40),
        identities in any::<u64>(),
        gone in 0usize..20,
    ) {
        let mut members = members(&weights);
        members.iter_mut().for_each(|member| member.identity = hash::mix(identities, member.identity));
        prop_assume!(!members.is_empty());
        // Of servers that are down the table keeps the size alone.
        check(&members, weights.len() + gone);
    }
}
