//! The `uprtc` executable: `run` starts a dataplane and a controlplane and keeps them alive, `dataplane` and
//! `controlplane` are the two, `token` lets people in, `rooms`, `peers`, `kick` and `move` govern a server, `doctor` looks
//! at the machine, `load` loads a server. No logic of a call is here.

mod administration;
mod cli;
mod client;
mod doctor;
mod load;
mod options;
mod process;
mod supervisor;
mod token;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, Doors, Media};
use options::{Role, Sources};

/// One line for the operator that says what to do.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    process::start_log();
    let result = match cli.command() {
        Command::Run { common, ips, media, doors } => supervisor::run(Sources { common, ips, media, doors }),
        Command::Dataplane { common, ips, media, supervised } => process::become_plane(&supervised)
            .and_then(|()| dataplane(&Sources { common, ips, media, doors: Doors::default() })),
        Command::Controlplane { common, ips, doors, supervised } => process::become_plane(&supervised)
            .and_then(|()| controlplane(&Sources { common, ips, media: Media::default(), doors })),
        Command::Doctor(request) => match doctor::run(&request) {
            Ok(is_well) => return if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            Err(failure) => Err(failure),
        },
        Command::Load(request) => load::run(&request),
        Command::Token(request) => token::print(&request),
        Command::NewKey { common } => token::new_key(&common),
        Command::Rooms { remote, shown } => administration::rooms(&remote, &shown),
        Command::Peers { remote, shown, room } => administration::peers(&remote, &shown, &room),
        Command::Kick { remote, room, peer } => administration::kick(&remote, &room, &peer),
        Command::Move { remote, room, peer, to } => administration::relocate(&remote, &room, &peer, &to),
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

fn dataplane(sources: &Sources) -> Result<(), Failure> {
    // From here on, so that a reload that comes early does not end the process.
    let stop = process::StopSignal::new()?;
    let mut options = sources.resolve()?;
    let config = dataplane::Config {
        socket_path: options.state.join(controlplane::link::SOCKET_FILE),
        media_ips: options.media_ips.clone(),
        media_port: options.media_port,
        workers: options.workers,
        is_pinned: options.is_pinned,
        driver: options.driver,
        backend: process::backend(&options),
        spin_us: options.spin_us,
    };
    let mut reload = || {
        sources.reload(&mut options, Role::Dataplane);
    };
    dataplane::run(&config, || stop.wait(&mut reload))?;
    Ok(())
}

fn controlplane(sources: &Sources) -> Result<(), Failure> {
    let mut options = sources.resolve()?;
    let config = controlplane::Config {
        stun_ip: options.public_ip(),
        settings: options.rooms.clone(),
        limits: options.limits.clone(),
        stun_rates: options.stun_rates,
        cors_origins: options.cors_origins.clone(),
        tls: options.tls(),
        metrics: options.metrics,
        ..controlplane::Config::new(options.state.clone(), options.listen, options.stun)
    };
    let reload = || {
        let is_read = sources.reload(&mut options, Role::Controlplane);
        is_read.then(|| controlplane::Reload {
            settings: options.rooms.clone(),
            cors_origins: options.cors_origins.clone(),
        })
    };
    controlplane::run(config, reload, process::announce)?;
    Ok(())
}
