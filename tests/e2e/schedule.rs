// SPDX-License-Identifier: MIT OR Apache-2.0
//! What two ends of a flow do, each by itself, drawn by chance; and what they may see of it.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use lb_tests::random::Random;
use lb_tests::stream::{End, Pattern, Received, end_of, finish, receive_exactly, receive_in_pieces, reset};

/// What two ends do.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// The client's, and the server's.
    scripts: [Script; 2],
}

/// What one end does.
#[derive(Clone, Debug)]
struct Script {
    /// Of what it sends.
    seed: u64,
    steps: Vec<Step>,
    /// With a RST after its last step, and it reads one byte at most; or else with a FIN.
    resets: bool,
    /// It begins when the other end has sent something: a server that resets before, has not taken the connection, and another is tried.
    waits: bool,
    /// How it reads, if it does.
    reads: Reads,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(usize),
    Pause(Duration),
}

#[derive(Clone, Copy, Debug)]
enum Reads {
    /// As much as comes.
    Eagerly,
    /// So many bytes at a time, with pauses.
    Slowly(usize),
}

/// What became of a flow.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// What the client got, and the server; nothing for one who resets.
    pub(crate) ends: [Option<Received>; 2],
    /// What the agent says of it.
    pub(crate) close: String,
    /// By which path it ended, for whoever looks into a difference.
    pub(crate) path: String,
}

/// How much longer than the other an end goes on that is by itself then.
const FAR: Duration = Duration::from_millis(100);

impl Schedule {
    pub(crate) fn new(random: &mut Random) -> Self {
        // One of seven ends with the client's reset, another with the server's.
        let resetting = random.below(7);
        let mut scripts = [0, 1].map(|end| Script::new(random, resetting == end));
        scripts[1].waits = scripts[1].resets;
        Self { scripts }
    }

    /// Does all of it.
    pub(crate) fn follow(&self, (client, server): (TcpStream, TcpStream)) -> Outcome {
        let [of_client, of_server] = &self.scripts;
        let may_break = self.is_reset();
        let ends = thread::scope(|scope| {
            let at_client = scope.spawn(move || of_client.follow(client, of_server.seed, may_break));
            let at_server = of_server.follow(server, of_client.seed, may_break);
            [at_client.join().expect("no panic"), at_server]
        });
        Outcome { ends, close: String::new(), path: String::new() }
    }

    /// What it is that paths have to get right in it, each by a word.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let [client, server] = &self.scripts;
        let reads_slowly = |script: &Script| !script.resets && matches!(script.reads, Reads::Slowly(_));
        let is_far = client.duration().abs_diff(server.duration()) >= FAR;
        let kinds = [
            (client.resets, "client resets"),
            (server.resets, "server resets"),
            (self.scripts.iter().any(reads_slowly), "reads slowly"),
            (!self.is_reset() && is_far, "one ends long before the other"),
        ];
        kinds.into_iter().filter(|(is_so, _)| *is_so).map(|(_, kind)| kind)
    }

    fn is_reset(&self) -> bool {
        self.scripts.iter().any(|script| script.resets)
    }

    /// Whether an outcome may come of this.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), String> {
        let [of_client, of_server] = &self.scripts;
        for (name, received, sender) in
            [("client", &outcome.ends[0], of_server), ("server", &outcome.ends[1], of_client)]
        {
            let Some(received) = received else { continue };
            if let Some(at) = received.wrong_at {
                return Err(format!("the {name} got wrong bytes at {at}"));
            }
            // What is under way when an end resets may be lost, but nothing else ever.
            let (sent, end) = (sender.bytes(), if self.is_reset() { End::Reset } else { End::Finished });
            let is_whole = if self.is_reset() { received.bytes <= sent } else { received.bytes == sent };
            if !is_whole || received.end != end {
                return Err(format!(
                    "the {name} got {} of {sent} bytes, and {:?}",
                    received.bytes, received.end
                ));
            }
        }
        Ok(())
    }
}

impl Script {
    fn new(random: &mut Random, resets: bool) -> Self {
        let steps = (0..1 + random.below(20)).map(|_| match random.below(3) {
            0 => Step::Pause(Duration::from_micros(random.below(60_000) as u64)),
            _ => {
                let scale = random.below(18);
                Step::Send(1 + random.below(1 << scale))
            }
        });
        // Whoever waits for something waits for this.
        let steps = steps.chain([Step::Send(1)]).collect();
        let reads = match random.below(3) {
            0 => Reads::Slowly(1 + random.below(20_000)),
            _ => Reads::Eagerly,
        };
        Self { seed: random.number(), steps, resets, waits: false, reads }
    }

    /// How long it pauses in all.
    fn duration(&self) -> Duration {
        self.steps
            .iter()
            .map(|step| if let Step::Pause(pause) = step { *pause } else { Duration::ZERO })
            .sum()
    }

    /// All that it sends.
    fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| if let Step::Send(bytes) = step { *bytes as u64 } else { 0 }).sum()
    }

    /// Does it, and returns what was got of the other end's pattern.
    fn follow(&self, stream: TcpStream, other: u64, may_break: bool) -> Option<Received> {
        if self.waits {
            receive_exactly(&stream, 1);
        }
        if self.resets {
            self.send(&stream, may_break);
            reset(stream);
            return None;
        }
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let is_open = self.send(&stream, may_break);
                if is_open {
                    finish_if_open(&stream, may_break);
                }
                is_open
            });
            let mut received = self.receive(&stream, other);
            // The kernel tells of a reset once: whoever writes at that moment leaves nothing of it for who reads (net/core/sock.c, sock_error).
            if !sender.join().expect("no panic") {
                received.end = End::Reset;
            }
            Some(received)
        })
    }

    /// Whether nobody has broken it off.
    fn send(&self, mut stream: &TcpStream, may_break: bool) -> bool {
        let mut pattern = Pattern::new(self.seed);
        for step in &self.steps {
            match step {
                Step::Pause(pause) => thread::sleep(*pause),
                Step::Send(bytes) => {
                    let mut piece = vec![0; *bytes];
                    pattern.fill(&mut piece);
                    let Err(error) = stream.write_all(&piece) else { continue };
                    assert!(may_break && end_of(&error) == End::Reset, "{error} in the middle of {self:?}");
                    return false;
                }
            }
        }
        true
    }

    fn receive(&self, stream: &TcpStream, other: u64) -> Received {
        let mut reads = 0_u64;
        receive_in_pieces(stream, other, u64::MAX, || {
            let Reads::Slowly(bytes) = self.reads else { return usize::MAX };
            reads += 1;
            if reads.is_multiple_of(8) {
                thread::sleep(Duration::from_millis(1));
            }
            bytes
        })
    }
}

fn finish_if_open(stream: &TcpStream, may_break: bool) {
    if may_break {
        // The other end may have reset it already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    } else {
        finish(stream);
    }
}
