//! The `uprtc` executable: `run` starts a dataplane and a controlplane and keeps them alive, `dataplane` and
//! `controlplane` are the two, `token` lets people in, `rooms`, `peers` and
//! `kick` govern a server. No logic of a call is here.

mod administration;
mod cli;
mod options;
mod process;
mod supervisor;
mod token;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, Doors, Media};
use options::Options;

/// One line for the operator that says what to do.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    process::start_log();
    let result = match cli.command() {
        Command::Run { common, ips, media, doors } => {
            options::resolve(&common, &ips, &media, &doors).and_then(supervisor::run)
        }
        Command::Dataplane { common, ips, media, supervised } => process::become_plane(&supervised)
            .and_then(|()| options::resolve(&common, &ips, &media, &Doors::default()))
            .and_then(dataplane),
        Command::Controlplane { common, ips, doors, supervised } => process::become_plane(&supervised)
            .and_then(|()| options::resolve(&common, &ips, &Media::default(), &doors))
            .and_then(controlplane),
        Command::Token(request) => token::print(&request),
        Command::NewKey { common } => token::new_key(&common),
        Command::Rooms { remote, shown } => administration::rooms(&remote, &shown),
        Command::Peers { remote, shown, room } => administration::peers(&remote, &shown, &room),
        Command::Kick { remote, room, peer } => administration::kick(&remote, &room, &peer),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // In one write: the planes share this stream.
            let _ = std::io::stderr().write_all(format!("uprtc: {failure}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn dataplane(options: Options) -> Result<(), Failure> {
    let config = dataplane::Config {
        socket_path: options.state.join(controlplane::link::SOCKET_FILE),
        media_ips: options.media_ips,
        media_port: options.media_port,
        workers: options.workers,
        ..dataplane::Config::default()
    };
    let stop = process::StopSignal::new()?;
    dataplane::run(&config, || stop.wait())?;
    Ok(())
}

fn controlplane(options: Options) -> Result<(), Failure> {
    let mut config = controlplane::Config::new(options.state, options.listen, options.stun);
    config.cors_origins = options.cors_origins;
    config.stun_ip = options.media_ips.first().copied();
    controlplane::run(config, process::announce)?;
    Ok(())
}
