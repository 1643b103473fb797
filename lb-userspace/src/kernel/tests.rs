// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel of this machine makes of the object. Each test asserts one of two outcomes, by the privileges it finds.

use std::fs;
use std::thread;
use std::time::Duration;

use lb_common::layout::{SOCKMAP_FILTER, SOCKMAP_VERDICT, TARGETS};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::*;
use crate::privileges::{self, Capability};

/// This thread without CAP_PERFMON and what implies it.
fn give_up_looking_into_sockets() {
    let held = capabilities(None).expect("a thread can read its own capabilities");
    let lost = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
    let less = CapabilitySets {
        effective: held.effective - lost,
        permitted: held.permitted - lost,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, less).expect("a thread can give up capabilities");
}

/// Whether this thread may load programs: the capabilities count only in the initial user namespace (user_namespaces(7)).
pub fn is_privileged() -> bool {
    let effective = capabilities(None).expect("a thread can read its own capabilities").effective;
    let is_capable = effective.contains(CapabilitySet::SYS_ADMIN)
        || effective.contains(CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON);
    let map = fs::read_to_string("/proc/self/uid_map").expect("/proc is mounted");
    is_capable && map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[test]
fn this_kernel_passes_the_self_test_or_says_that_privileges_are_missing() {
    match load_sockmap(4, 1 << 20) {
        Ok((sockmap, _calls)) => {
            assert!(is_privileged());
            // Working with the maps needs none, as the agent has none by then.
            let tested = thread::spawn(move || {
                privileges::give_up().expect("a thread can give up capabilities");
                let mut maps = sockmap.maps()?;
                let mut steps = Vec::new();
                let tested = self_test::run(&sockmap, &mut maps, &mut |step| steps.push(step));
                assert_eq!(maps.entries(), 0, "entries are left");
                tested.map(|()| steps).map_err(LoadError::SelfTest)
            });
            let steps = tested.join().expect("the thread ends").expect("every behaviour");
            assert!(steps.len() >= 5 && steps.iter().all(|step| !step.took.is_zero()), "{steps:?}");
            // Some 100 ms on a machine that has time for it.
            let took: Duration = steps.iter().map(|step| step.took).sum();
            println!("the self-test of path sockmap took {took:?}: {steps:?}");
            assert!(took < Duration::from_secs(10), "{took:?}");
        }
        Err(LoadError::NoPrivilege(_)) => assert!(!is_privileged()),
        Err(error) => panic!("{error}: {error:?}"),
    }
}

/// The verifier walks every way through a program and gives up after a million instructions (include/linux/bpf.h,
/// BPF_COMPLEXITY_LIMIT_INSNS), which differ from kernel to kernel. `cargo xtask vm` reads the line that this prints.
#[test]
fn the_verifier_is_far_from_giving_up() {
    let Ok((_sockmap, _calls)) = load_sockmap(4, 1 << 20) else { return assert!(!is_privileged()) };
    for name in [SOCKMAP_VERDICT, SOCKMAP_FILTER] {
        // The kernel keeps 15 bytes of it (include/uapi/linux/bpf.h, BPF_OBJ_NAME_LEN).
        let kept = &name.as_bytes()[..name.len().min(15)];
        let programs = aya::programs::loaded_programs().filter_map(Result::ok);
        let ours: Vec<_> = programs.filter(|program| program.name() == kept).collect();
        assert!(!ours.is_empty(), "the kernel does not list {name}");
        for program in ours {
            // Since Linux 5.16.
            let verified = program.verified_instruction_count().expect("the kernel counts them");
            let (translated, jited) = (program.size_translated().unwrap_or(0), program.size_jitted());
            println!(
                "program {name}: {verified} instructions verified, {translated} bytes translated, {jited} bytes jited"
            );
            assert!((1..10_000).contains(&verified), "{verified} instructions");
        }
    }
}

#[test]
fn without_capabilities_the_reason_is_told() {
    let loaded = thread::spawn(|| {
        // Capabilities belong to a thread: the other tests keep theirs.
        privileges::give_up().expect("a thread can give up capabilities");
        load_sockmap(4, 1 << 20).map(drop)
    });
    let missing = Lack::Capabilities(Capability::FOR_SOCKMAP.to_vec());
    assert!(
        matches!(loaded.join().expect("the thread ends"), Err(LoadError::NoPrivilege(lack)) if lack == missing)
    );
}

#[test]
fn without_the_one_for_looking_into_sockets_that_is_told() {
    let may_do_the_rest = is_privileged();
    let loaded = thread::spawn(|| {
        give_up_looking_into_sockets();
        load_sockmap(4, 1 << 20).map(drop)
    });
    match loaded.join().expect("the thread ends") {
        Err(error @ LoadError::NoPrivilege(_)) => {
            let expected = if may_do_the_rest { Availability::NoPerfmon } else { Availability::NoPrivilege };
            assert_eq!(error.availability(), expected, "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_truncated_object_is_damaged() {
    for length in [0, 100, OBJECT.len() / 2] {
        let error = Sockmap::load(&OBJECT[..length], 4, 1 << 20).map(drop);
        assert!(matches!(error, Err(LoadError::Damaged(_))), "{length} bytes: {error:?}");
    }
}

#[test]
fn errors_are_sorted_by_what_an_operator_would_do() {
    let creation = |errno: Errno| {
        LoadError::from_ebpf(
            MapError::CreateError { name: TARGETS.to_owned(), io_error: errno.into() }.into(),
        )
    };
    assert!(matches!(creation(Errno::PERM), LoadError::NoPrivilege(_)));
    assert!(matches!(creation(Errno::INVAL), LoadError::KernelTooOld(_)));
    assert!(matches!(creation(Errno::NOSYS), LoadError::KernelTooOld(_)));
    assert!(matches!(creation(Errno::NOMEM), LoadError::Refused(_)));
    assert!(matches!(LoadError::from_ebpf(MapError::KeyNotFound.into()), LoadError::Damaged(_)));
}
