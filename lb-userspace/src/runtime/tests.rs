// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime with real sockets and threads, and its timers against a sorted list.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Instant;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{Notify, mpsc, oneshot};

use super::testing::run;
use super::*;
use crate::net;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn tasks_run_in_the_order_in_which_they_were_woken() {
    let order = Rc::<RefCell<Vec<u32>>>::default();
    run(async {
        for number in 0..100 {
            let order = Rc::clone(&order);
            spawn(async move {
                order.borrow_mut().push(number);
                yield_now().await;
                order.borrow_mut().push(100 + number);
            });
        }
        while order.borrow().len() < 200 {
            yield_now().await;
        }
    });
    assert!(order.take().into_iter().eq(0..200));
}

#[test]
fn who_lets_others_go_first_does_not_keep_sockets_and_timers_waiting() {
    let (near, mut far) = pair();
    run(async {
        let socket = Socket::connection(near.into()).unwrap();
        let (turns, is_over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        spawn({
            let (turns, is_over) = (Rc::clone(&turns), Rc::clone(&is_over));
            async move {
                while !is_over.get() {
                    turns.set(turns.get() + 1);
                    yield_now().await;
                }
            }
        });
        soon(socket.writable()).await;
        for _ in 0..100 {
            far.write_all(b"x").unwrap();
            arrive(&socket);
            let before = turns.get();
            soon(socket.readable()).await;
            // It is heard with the next look at sockets, and the busy task has a turn or two before it.
            assert!(turns.get() - before <= 3, "{} turns of the other task came first", turns.get() - before);
            net::receive(&socket, &mut [0; 8]).unwrap();
            socket.clear_read_ready();
        }
        sleep(Duration::from_millis(1)).await;
        is_over.set(true);
    });
}

#[test]
fn a_task_may_begin_others_and_its_place_is_used_again() {
    let count = Rc::new(Cell::new(0));
    fn branch(count: Rc<Cell<u32>>, depth: u32) {
        count.set(count.get() + 1);
        if depth > 0 {
            for _ in 0..2 {
                let count = Rc::clone(&count);
                spawn(async move { branch(count, depth - 1) });
            }
        }
    }
    run(async {
        for round in 1..=3 {
            branch(Rc::clone(&count), 8);
            while count.get() < round * 511 {
                yield_now().await;
            }
        }
    });
    assert_eq!(count.get(), 3 * 511);
    assert!(with(|runtime| runtime.tasks.len()) <= 511);
}

#[test]
fn messages_of_other_threads_wake() {
    const EACH: u32 = 20_000;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let sender = sender.clone();
            thread::spawn(move || {
                for number in 0..EACH {
                    sender.send(u64::from(number)).unwrap();
                    if number % 64 == 0 {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    drop(sender);
    let (done, sum) = oneshot::channel();
    let received = run(async move {
        spawn(async move {
            let mut all = 0;
            while let Some(number) = receiver.recv().await {
                all += number;
            }
            let _ = done.send(all);
        });
        timeout(PATIENCE, sum).await.expect("no call is lost").unwrap()
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(received, 4 * u64::from(EACH) * u64::from(EACH - 1) / 2);
}

#[test]
fn the_root_is_woken_by_another_thread() {
    let notify = Arc::new(Notify::new());
    let waker = thread::spawn({
        let notify = Arc::clone(&notify);
        move || {
            thread::sleep(Duration::from_millis(50));
            notify.notify_one();
        }
    });
    run(async { timeout(PATIENCE, notify.notified()).await.expect("a call") });
    waker.join().unwrap();
}

#[test]
fn what_is_left_at_the_end_is_dropped_while_the_runtime_is_there() {
    let held = Rc::new(());
    let (near, mut far) = pair();
    run({
        let held = Rc::clone(&held);
        async move {
            let socket = Socket::connection(near.into()).unwrap();
            spawn(async move {
                let _held = held;
                tokio::select! {
                    _ = socket.readable() => {}
                    () = sleep(PATIENCE) => {}
                }
            });
            yield_now().await;
            yield_now().await;
        }
    });
    assert_eq!(Rc::strong_count(&held), 1);
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "its socket is closed");
}

#[test]
fn a_socket_tells_of_bytes_room_and_the_end() {
    let (near, mut far) = pair();
    run(async {
        let socket = Socket::connection(near.into()).unwrap();
        assert!(!socket.writable().await.is_write_closed());
        assert!(timeout(Duration::from_millis(20), socket.readable()).await.is_err());
        far.write_all(b"one").unwrap();
        assert!(!soon(socket.readable()).await.is_read_closed());
        assert_eq!(net::receive(&socket, &mut [0; 8]).unwrap(), 3);
        socket.clear_read_ready();
        assert!(timeout(Duration::from_millis(20), socket.readable()).await.is_err());
        let chunk = vec![0; 1 << 20];
        while net::send(&socket, &chunk).is_ok() {}
        socket.clear_write_ready();
        assert!(timeout(Duration::from_millis(20), socket.writable()).await.is_err());
        let reader = thread::spawn(move || {
            let mut taken = vec![0; 1 << 20];
            far.read_exact(&mut taken).unwrap();
            far
        });
        soon(socket.writable()).await;
        let far = reader.join().unwrap();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        while !soon(socket.readable()).await.is_read_closed() {
            socket.clear_read_ready();
        }
        rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
        drop(far);
        soon(socket.failed()).await;
        assert!(socket.readiness().is_write_closed());
    });
}

#[test]
fn a_place_of_a_socket_before_tells_nothing_of_the_one_after() {
    run(async {
        for _ in 0..100 {
            let (near, mut far) = pair();
            let kept = near.try_clone().unwrap();
            let socket = Socket::connection(near.into()).unwrap();
            let place = socket.place();
            drop(socket);
            // The first one is still open, and still watched.
            let (near, _far) = pair();
            let socket = Socket::connection(near.into()).unwrap();
            assert_eq!(socket.place(), place);
            far.write_all(b"for the first").unwrap();
            assert!(timeout(Duration::from_millis(1), socket.readable()).await.is_err());
            drop(kept);
        }
    });
}

#[test]
fn a_socket_that_left_is_watched_again() {
    let (near, mut far) = pair();
    run(async {
        let fd = Socket::connection(near.into()).unwrap().into_inner();
        let socket = Socket::connection(fd).expect("nobody watches it");
        far.write_all(b"x").unwrap();
        soon(socket.readable()).await;
    });
}

#[test]
fn a_connection_wakes_one_thread_of_several_that_listen() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 30;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (woken, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let listener = listener.try_clone().unwrap();
            scope.spawn(|| {
                run(async {
                    let socket = Socket::listener(listener.into()).unwrap();
                    while accepted.load(Ordering::Relaxed) < ROUNDS {
                        if timeout(Duration::from_millis(50), socket.readable()).await.is_err() {
                            continue;
                        }
                        woken.fetch_add(1, Ordering::Relaxed);
                        while rustix::net::accept(socket.get_ref()).is_ok() {
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                        socket.clear_read_ready();
                    }
                });
            });
        }
        for _ in 0..ROUNDS {
            thread::sleep(Duration::from_millis(10));
            drop(TcpStream::connect(address).unwrap());
        }
    });
    assert_eq!(accepted.load(Ordering::Relaxed), ROUNDS);
    // All four for each, if they were all woken.
    let woken = woken.load(Ordering::Relaxed);
    assert!(woken < ROUNDS * 2, "{woken} times");
}

#[test]
fn sleeps_end_in_order_and_never_early() {
    let ends = Rc::<RefCell<Vec<u64>>>::default();
    run(async {
        for milliseconds in [30, 10, 20, 0, 40] {
            let ends = Rc::clone(&ends);
            spawn(async move {
                let begun = Instant::now();
                sleep(Duration::from_millis(milliseconds)).await;
                assert!(begun.elapsed() >= Duration::from_millis(milliseconds));
                ends.borrow_mut().push(milliseconds);
            });
        }
        while ends.borrow().len() < 5 {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(ends.take(), [0, 10, 20, 30, 40]);
}

#[test]
fn a_sleep_that_is_reset_waits_anew() {
    run(async {
        let mut sleep = pin!(sleep(Duration::from_millis(10)));
        sleep.as_mut().await;
        assert!(sleep.is_elapsed());
        let begun = Instant::now();
        sleep.as_mut().reset(Moment::now() + Duration::from_millis(30));
        assert!(!sleep.is_elapsed());
        sleep.as_mut().await;
        assert!(begun.elapsed() >= Duration::from_millis(30));
    });
    assert!(with(|runtime| runtime.timers.next()).is_none());
}

#[test]
fn a_future_that_is_ready_counts_more_than_its_deadline() {
    run(async {
        assert_eq!(timeout_at(Instant::now(), async { 7 }).await, Ok(7));
        assert_eq!(timeout(Duration::ZERO, std::future::pending::<()>()).await, Err(Elapsed));
    });
}

#[test]
fn a_thread_that_waits_sleeps() {
    let mut wakeups = 0;
    block_on(sleep(Duration::from_millis(200)), || wakeups += 1).unwrap();
    assert!((1..10).contains(&wakeups), "{wakeups}");
}

/// Counts its calls.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
enum Act {
    Add(u64),
    /// Of those that are there, this one modulo their number.
    Remove(usize),
    Fire(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u64..1_000).prop_map(Act::Add),
        2 => any::<usize>().prop_map(Act::Remove),
        1 => (0_u64..1_000).prop_map(Act::Fire),
    ]
}

proptest! {
    /// Timers do what a sorted list of them would.
    #[test]
    fn timers_fire_when_they_are_due(acts in prop::collection::vec(act(), 1..300)) {
        let (timers, epoch) = (Timers::default(), Moment::now());
        let at = |ns: u64| epoch + Duration::from_nanos(ns);
        let mut model: BTreeMap<u32, (u64, bool, Arc<Bell>)> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Add(ns) => {
                    let bell = Arc::<Bell>::default();
                    let number = timers.add(at(ns), Waker::from(Arc::clone(&bell)));
                    prop_assert!(model.insert(number, (ns, false, bell)).is_none());
                }
                Act::Remove(index) if !model.is_empty() => {
                    let number = *model.keys().nth(index % model.len()).unwrap();
                    timers.remove(number);
                    model.remove(&number);
                }
                Act::Remove(_) => {}
                Act::Fire(now) => {
                    timers.fire(at(now));
                    model.values_mut().for_each(|(ns, has_fired, _)| *has_fired |= *ns <= now);
                }
            }
            let next = model.values().filter(|(_, has_fired, _)| !has_fired).map(|(ns, ..)| *ns).min();
            prop_assert_eq!(timers.next(), next.map(at));
            for (&number, (_, has_fired, bell)) in &model {
                prop_assert_eq!(bell.0.load(Ordering::Relaxed), usize::from(*has_fired));
                prop_assert_eq!(timers.has_fired(number, &Waker::from(Arc::clone(bell))), *has_fired);
            }
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until the kernel has brought something, which it does later when it is busy (ksoftirqd).
fn arrive(socket: &Socket) {
    let (mut fds, patience) = ([PollFd::new(socket, PollFlags::IN)], Timespec::try_from(PATIENCE));
    assert_eq!(poll(&mut fds, patience.ok().as_ref()), Ok(1));
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (near, far)
}
