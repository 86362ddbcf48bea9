//! The `uprtc` executable: `run` starts a dataplane and a controlplane and keeps them alive, `dataplane` and
//! `controlplane` are the two, `token` and `link` let people in, `rooms`, `peers`, `nodes`, `kick` and `move` govern a server, `doctor`
//! looks at the machine, `record` records rooms, `live` sends them on, `load` loads a server, `sip` lets telephones in, `feed` brings feeds of
//! encoders in. No logic of a call is here.

mod administration;
mod cli;
mod confine;
mod doctor;
mod feed;
mod live;
mod load;
mod options;
mod process;
mod reach;
mod record;
mod remote;
mod running;
mod service;
mod sip;
mod supervisor;
mod token;

use std::process::ExitCode;

use cli::{Cli, Command, Endpoints, Media};
use options::{Role, Sources};
use running::Running;

/// Version, and the revision of the sources if it is known (build.rs).
const VERSION: &str = env!("UPRTC_VERSION");

/// One line for the operator that says what to do.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let (common, command) = Cli::read().split();
    process::start_log();
    let result = match command {
        Command::Run { ips, media, endpoints } => supervisor::run(Sources { common, ips, media, endpoints }),
        Command::Dataplane { ips, media, supervised } => process::become_plane(&supervised)
            .and_then(|()| dataplane(&Sources { common, ips, media, endpoints: Endpoints::default() })),
        Command::Controlplane { ips, endpoints, supervised } => process::become_plane(&supervised)
            .and_then(|()| controlplane(&Sources { common, ips, media: Media::default(), endpoints })),
        Command::Doctor(request) => match doctor::run(&common, &request) {
            Ok(is_well) => return if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            Err(failure) => Err(failure),
        },
        Command::Record(request) => record::run(&common, &request),
        Command::Live(request) => live::run(&common, &request),
        Command::Load(request) => load::run(&common, &request),
        Command::Sip(request) => sip::run(&common, &request),
        Command::Feed(request) => feed::run(&common, &request),
        Command::FeedChild(request) => feed::become_child(&request),
        Command::Token(request) => token::print(&common, &request),
        Command::Link(request) => token::link(&common, &request),
        Command::NewKey => token::new_key(&common),
        Command::Version => process::print(&format!("uprtc {VERSION}\n")),
        Command::Rooms { remote, shown } => administration::rooms(&common, &remote, &shown),
        Command::Nodes { remote, shown } => administration::nodes(&common, &remote, &shown),
        Command::Peers { remote, shown, room } => administration::peers(&common, &remote, &shown, &room),
        Command::Kick { remote, room, peer } => administration::kick(&common, &remote, &room, &peer),
        Command::Move { remote, room, peer, to } => administration::relocate(&common, &remote, &room, &peer, &to),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            process::print_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

fn dataplane(sources: &Sources) -> Result<(), Failure> {
    // From here on, so that a reload that comes early does not end the process.
    let stop = process::StopSignal::new()?;
    let mut options = sources.resolve()?;
    reach::check_media_ips(&options)?;
    let config = dataplane::Config {
        link: options.link(),
        media_ips: options.media_ips.clone(),
        media_port: options.media_port,
        ice_tcp: options.ice_tcp,
        workers: options.workers,
        is_pinned: options.is_pinned,
        driver: options.driver,
        backend: process::backend(options.backend, options.driver),
        spin_us: options.spin_us,
    };
    let is_confined = options.seccomp;
    let mut reload = || {
        sources.reload(&mut options, Role::Dataplane);
    };
    let mut confined = Ok(());
    dataplane::run(&config, || {
        // After the start, which pins threads.
        confined = if is_confined { confine::confine(confine::Plane::Data) } else { Ok(()) };
        if confined.is_ok() {
            stop.wait(&mut reload);
        }
    })?;
    confined?;
    Ok(())
}

fn controlplane(sources: &Sources) -> Result<(), Failure> {
    let mut options = sources.resolve()?;
    if options.stun.is_none() {
        reach::check_media_ips(&options)?;
    }
    // With a port of the kernel's choice it is known when it is bound, unless `public-url` says it.
    let http = (options.listen.port() != 0 || options.public_url.is_some())
        .then(|| reach::link_base(&options, options.listen));
    let config = controlplane::Config {
        link: options.link(),
        stun_ip: options.public_ip(),
        settings: options.rooms.clone(),
        limits: options.limits.clone(),
        stun_rates: options.stun_rates,
        cors_origins: options.cors_origins.clone(),
        frame_origins: options.frame_origins.clone(),
        trusted_proxies: options.trusted_proxies.clone(),
        tls: options.tls(),
        metrics: options.metrics,
        public_url: options.public_url.clone(),
        ice_tcp: options.ice_tcp_ips(),
        cluster: options.cluster().map(|cluster| controlplane::nodes::Settings { http, ..cluster }),
        ..controlplane::Config::new(options.state.clone(), options.listen, options.stun())
    };
    let started = options.clone();
    let announce = |listening: &controlplane::Listening| {
        Running::new(&started, listening.http).write(&started.state);
        if started.seccomp
            && let Err(failure) = confine::confine(confine::Plane::Control)
        {
            process::print_failure(&failure);
            std::process::exit(1);
        }
        process::announce(listening);
    };
    let reload = || {
        let is_read = sources.reload(&mut options, Role::Controlplane);
        is_read.then(|| controlplane::Reload {
            settings: options.rooms.clone(),
            cors_origins: options.cors_origins.clone(),
            frame_origins: options.frame_origins.clone(),
        })
    };
    controlplane::run(config, reload, announce)?;
    Ok(())
}
