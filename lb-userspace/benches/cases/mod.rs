// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: everything that a connection costs in user space beside system calls, and what a packet costs of one that is carried in
//! the kernel, on inputs that are the same each time.

mod backends;
mod balance;
mod hello;
mod log;
mod packet;
mod proxy;
mod route;

/// One thing to measure.
pub struct Case {
    /// Suite and input, such as `hello/517-bytes`. It is the key of the committed count.
    pub name: String,
    /// How often callgrind sees it: enough for the inputs to come up evenly, few enough to end soon.
    pub rounds: u64,
    /// Does it as often as asked for.
    pub run: Box<dyn FnMut(u64)>,
}

impl Case {
    /// A case of which `once` is one round.
    fn new(name: impl Into<String>, rounds: u64, mut once: impl FnMut() + 'static) -> Self {
        Self { name: name.into(), rounds, run: Box::new(move |rounds| (0..rounds).for_each(|_| once())) }
    }
}

/// Every case, ready to run.
pub fn all() -> Vec<Case> {
    [hello::cases(), route::cases(), balance::cases(), proxy::cases(), log::cases(), packet::cases()]
        .into_iter()
        .flatten()
        .collect()
}
