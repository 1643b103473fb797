// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb stop`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::output;
use crate::exit;
use crate::kernel::packet::kept::{Flushed, flush, owner};

/// Beyond `drain-timeout`, for the last lines of the log.
const MARGIN: Duration = Duration::from_secs(10);

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `lb stop`.
#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The configuration of the agent, which says where it keeps flows of path packet (`packet-state`): by that it is known.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Also ends the flows of path packet, which otherwise go on, and takes away what they go by. What an agent of systemd keeps is not in
    /// packet-state: `systemctl stop` ends those.
    #[arg(long)]
    flush: bool,
}

#[derive(Debug, thiserror::Error)]
enum StopError {
    #[error("no lb runs on {}", .0.display())]
    Nobody(PathBuf),
    #[error("packet-state is \"off\": nothing is kept, and lb is stopped by SIGTERM")]
    Off,
    #[error("cannot look who runs on {}: {error}", path.display())]
    Closed { path: PathBuf, error: std::io::Error },
    #[error("cannot stop process {process}: {errno}")]
    Refused { process: u32, errno: Errno },
    #[error("process {0} does not end")]
    Stays(u32),
    #[error(transparent)]
    Flush(#[from] crate::kernel::packet::kept::FlushError),
}

/// Stops the agent that runs on the configuration's `packet-state`, and flushes.
pub(super) fn run(args: &StopArgs) -> ExitCode {
    let loaded = match super::load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let global = loaded.config.global;
    let patience = global.drain_timeout + MARGIN;
    match global.packet_state.ok_or(StopError::Off).and_then(|state| stop(&state, args.flush, patience)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error_line(format_args!("error: {error}"));
            exit::UNAVAILABLE.into()
        }
    }
}

fn stop(state: &Path, is_flushed: bool, patience: Duration) -> Result<(), StopError> {
    match running(state)? {
        Some(process) => {
            end(process, state, patience)?;
            output::line(format_args!("lb (process {process}) has ended"));
        }
        None if !is_flushed => return Err(StopError::Nobody(state.to_owned())),
        None => {}
    }
    if is_flushed {
        let flushed = flush(state)?;
        output::line(match flushed {
            Flushed::Nothing => format!("nothing is kept in {}", state.display()),
            Flushed::Flows { count, .. } => format!("{} is gone, and {count} flows with it", state.display()),
        });
        if let Flushed::Flows { are_told: false, .. } = flushed {
            output::error_line(format_args!(
                "their ends get a reset with the next that they send, and not at once: CAP_NET_RAW is missing, or this lb cannot read what another has left"
            ));
        }
    }
    Ok(())
}

fn running(state: &Path) -> Result<Option<u32>, StopError> {
    owner(state).map_err(|error| StopError::Closed { path: state.to_owned(), error })
}

/// Sends SIGTERM, and waits until nobody has the directory.
fn end(process: u32, state: &Path, patience: Duration) -> Result<(), StopError> {
    let refused = |errno| StopError::Refused { process, errno };
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH).map_err(refused)?;
    let agent = pidfd_open(pid, PidfdFlags::empty()).map_err(refused)?;
    // From here on the number is nobody else's; but it may have been before.
    if running(state)? == Some(process) {
        pidfd_send_signal(&agent, Signal::TERM).map_err(refused)?;
    }
    let deadline = Instant::now() + patience;
    while running(state)? == Some(process) {
        if Instant::now() >= deadline {
            return Err(StopError::Stays(process));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
