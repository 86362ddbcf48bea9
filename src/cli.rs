//! The command line, exactly as people type it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// A WebRTC media server for bare-metal Linux edges.
#[derive(Debug, Parser)]
#[command(name = "uprtc", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// What is to be done; without a word it is `run`, so that `cargo run` opens a call.
    pub(crate) fn command(self) -> Command {
        self.command.unwrap_or_else(|| Command::Run {
            common: Common::default(),
            ips: MediaIps::default(),
            media: Media::default(),
            doors: Doors::default(),
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start both planes as two processes, keep them alive, and print the link of a room.
    Run {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        ips: MediaIps,
        #[command(flatten)]
        media: Media,
        #[command(flatten)]
        doors: Doors,
    },
    /// Move packets: one pinned worker per core, one UDP port per worker.
    Dataplane {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        ips: MediaIps,
        #[command(flatten)]
        media: Media,
        #[command(flatten)]
        supervised: Supervised,
    },
    /// Decide: signalling, rooms, keys. Finds the dataplane through the state folder.
    Controlplane {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        ips: MediaIps,
        #[command(flatten)]
        doors: Doors,
        #[command(flatten)]
        supervised: Supervised,
    },
    /// Print a token that lets somebody into a room.
    Token(Token),
    /// Make another signing key, which signs from now on, and print its name. Remove the old one when its tokens have
    /// expired.
    NewKey {
        #[command(flatten)]
        common: Common,
    },
    /// Show the rooms of a server.
    Rooms {
        #[command(flatten)]
        remote: Remote,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show who is in a room.
    Peers {
        #[command(flatten)]
        remote: Remote,
        #[command(flatten)]
        shown: Shown,
        /// Which room
        room: String,
    },
    /// Remove a peer from a room.
    Kick {
        #[command(flatten)]
        remote: Remote,
        /// From which room
        room: String,
        /// Its id, as `uprtc peers` shows it
        peer: String,
    },
    /// Look whether this machine can carry calls with these settings, and say what would mend what is amiss.
    Doctor(Doctor),
}

/// What every command needs to know.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Common {
    /// Settings in TOML, as deploy/uprtc.toml lists them; UPRTC_… variables and options given here win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// State folder: signing key, locks, and the socket by which the planes find each other [default:
    /// $XDG_STATE_HOME/uprtc or ~/.local/state/uprtc]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Any key of the settings file; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// What concerns both planes: the dataplane listens there, and the controlplane tells clients to ask STUN there.
#[derive(Debug, Default, Args)]
pub(crate) struct MediaIps {
    /// Address of this machine that media comes to; may be repeated [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(crate) media_ip: Vec<IpAddr>,
}

/// What concerns the dataplane.
#[derive(Debug, Default, Args)]
pub(crate) struct Media {
    /// Worker i listens on this UDP port + i; 0 takes any [default: 40000]
    #[arg(long, value_name = "BASE")]
    pub(crate) media_port: Option<u16>,
    /// How many cores move packets [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// How packets leave: auto, udp, or frames, which is faster and passes by the firewall [default: auto]
    #[arg(long, value_name = "HOW")]
    pub(crate) io: Option<String>,
}

/// What concerns the controlplane.
#[derive(Debug, Default, Args)]
pub(crate) struct Doors {
    /// Where HTTP and WebSocket are served; port 0 takes any [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Origin whose pages may use the REST interface, or '*' for any; may be repeated [default: none]
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// Where STUN is served; port 0 takes any [default: 127.0.0.1:3478]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) stun: Option<SocketAddr>,
}

/// What a look at the machine shall do.
#[derive(Debug, Default, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave out the call between two peers of this process's own
    #[arg(long)]
    pub(crate) no_call: bool,
}

/// How `run` marks its children.
#[derive(Debug, Default, Args)]
pub(crate) struct Supervised {
    /// The process whose end ends this one.
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) supervisor: Option<i32>,
}

/// The server that an operator asks. The token is made with the key in the state folder, or is `UPRTC_TOKEN`: a command
/// line is seen by everybody on the machine.
#[derive(Debug, Args)]
pub(crate) struct Remote {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Where it serves HTTP
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) server: String,
}

/// How something is shown.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a token shall say.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The room it is good for; '*' for every room
    #[arg(long, value_name = "ROOM")]
    pub(crate) room: String,
    /// The name that others see
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// May send audio and video
    #[arg(long)]
    pub(crate) publish: bool,
    /// May hear and see others
    #[arg(long)]
    pub(crate) subscribe: bool,
    /// May see and change rooms through the API
    #[arg(long)]
    pub(crate) admin: bool,
    /// How long it is good: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
}

/// `90s`, `30m`, `1h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a number and s, m, h or d, such as 90s, 30m, 1h or 7d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = count.checked_mul(unit).filter(|&seconds| seconds > 0 && seconds < 1 << 40).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for text in ["", "1", "h", "-1h", "1.5h", "0s", "1w", "99999999999999999999h", "9999999999999999d", "1ä"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_options_are_those_that_others_build_on() {
        let cli = "uprtc run --config c.toml --listen 127.0.0.1:0 --media-ip 127.0.0.1 --media-ip ::1 \
                   --media-port 0 --workers 2 --stun 127.0.0.1:0 --state s";
        assert!(Cli::try_parse_from(cli.split_whitespace()).is_ok());
        let cli = "uprtc token --room * --name N --publish --subscribe --admin --ttl 1h --state s";
        assert!(Cli::try_parse_from(cli.split_whitespace()).is_ok());
        let cli = "uprtc doctor --json --state s --config c.toml --set peers-max=3 --set rooms-max=2";
        assert!(Cli::try_parse_from(cli.split_whitespace()).is_ok());
        assert!(Cli::try_parse_from(["uprtc", "dataplane", "--listen", "127.0.0.1:0"]).is_err());
    }
}
