//! The command line, exactly as people type it.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use proto::work::Role;

/// What is below the list of commands.
const EXIT_CODES: &str = "Exit codes: 0 done; 1 not done, or `doctor` found something that fails (one line on standard \
    error says what); 2 the command line is wrong.";

/// Options that may be given more than once.
const REPEATABLE: [&str; 2] = ["--set", "--pid"];

/// A WebRTC media server for bare-metal Linux edges.
#[derive(Debug, Parser)]
#[command(name = "uprtc", version = crate::VERSION, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// What was typed. Ends the process if it is wrong.
    pub(crate) fn read() -> Cli {
        Cli::parse_from(gathered(std::env::args_os()))
    }

    /// What is to be done; without a word it is `run`, so that `cargo run` opens a call.
    pub(crate) fn split(self) -> (Common, Command) {
        let run =
            || Command::Run { ips: MediaIps::default(), media: Media::default(), endpoints: Endpoints::default() };
        (self.common, self.command.unwrap_or_else(run))
    }
}

/// The words with the repeatable options behind all others, in their order. Of an option that stands both before and after
/// a subcommand clap takes only the values of one of the two places; behind the last subcommand all are in one place.
fn gathered(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let (mut others, mut repeated) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--" {
            others.append(&mut repeated);
            others.push(word);
            others.extend(words.by_ref());
        } else if REPEATABLE.contains(&text.as_ref()) {
            repeated.push(word);
            repeated.extend(words.next());
        } else if REPEATABLE.iter().any(|option| text.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))) {
            repeated.push(word);
        } else {
            others.push(word);
        }
    }
    others.append(&mut repeated);
    others
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start both planes as two processes, keep them alive, and print the link of a room.
    Run {
        #[command(flatten)]
        ips: MediaIps,
        #[command(flatten)]
        media: Media,
        #[command(flatten)]
        endpoints: Endpoints,
    },
    /// Move packets: one pinned worker per core, one UDP port per worker.
    Dataplane {
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
        ips: MediaIps,
        #[command(flatten)]
        endpoints: Endpoints,
        #[command(flatten)]
        supervised: Supervised,
    },
    /// Print a token that lets somebody into a room. It is signed with the key in the state folder.
    Token(Token),
    /// Print a link that lets somebody into a room. Without --publish, --subscribe and --admin it allows the first two.
    Link(Token),
    /// Make another signing key, which signs from now on, and print its name. Remove the old one when its tokens have
    /// expired.
    NewKey,
    /// Show the rooms of a server.
    Rooms {
        #[command(flatten)]
        remote: Remote,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show the nodes of the cluster that a server is in: which are here, where, and what they carry.
    Nodes {
        #[command(flatten)]
        remote: Remote,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show who is in a room and what flows: rates in bit/s over the last seconds, what is lost on the way, round trips.
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
    /// Take a peer to another room; its media goes on.
    Move {
        #[command(flatten)]
        remote: Remote,
        /// The room that it is in
        room: String,
        /// Its id, as `uprtc peers` shows it
        peer: String,
        /// The room that it goes to
        to: String,
    },
    /// Print the version, and the revision of the sources if the build knew it.
    Version,
    /// Look whether this machine can carry calls with these settings, and say what would mend what is amiss.
    Doctor(Doctor),
    /// Record rooms: a peer that sends nothing joins each, everybody sees it, and it writes each track to a file of fragmented MP4.
    /// Ends with SIGINT or SIGTERM; docs/RECORDING.md says what is in the folder.
    Record(Record),
    /// Send a room on to a large audience as low-latency HLS: a peer that sends nothing joins it, everybody sees it, and players get one
    /// picture and the sound of all. Ends with SIGINT or SIGTERM; docs/LIVE.md says what players find where.
    Live(Live),
    /// Load a server with WebRTC peers, and report what it forwards and what that costs. Without
    /// --server and --state it starts one of its own.
    Load(Load),
    /// Let telephones into rooms: a SIP gateway, whose file says which numbers lead where (docs/SIP.md)
    Sip(Sip),
    /// Bring what an encoder such as OBS sends by RTMP or SRT into a room: prints the address and the stream key to enter there
    /// (docs/FEEDS.md)
    Feed(Feed),
    /// Not for people: becomes a child of `feed`.
    #[command(hide = true)]
    FeedChild(FeedChild),
}

/// What a feed shall be.
#[derive(Debug, Args)]
pub(crate) struct Feed {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Which room
    #[arg(value_name = "ROOM", required_unless_present = "orders", conflicts_with = "orders")]
    pub(crate) room: Option<String>,
    /// Wait for orders of the server, and feed the rooms that it says (docs/SERVICES.md)
    #[arg(long)]
    pub(crate) orders: bool,
    /// With --orders: how many feeds at once; each has ports of its own, from those of --rtmp and --srt on
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) tasks_max: u16,
    /// Listen here for RTMP (TCP)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) rtmp: Option<SocketAddr>,
    /// Listen here for SRT (UDP)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) srt: Option<SocketAddr>,
    /// The name that others in the room see
    #[arg(long, value_name = "NAME", default_value = "Feed")]
    pub(crate) name: String,
    /// How long it stays in the room when a feed has broken off
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = parse_seconds)]
    pub(crate) wait: f64,
    /// The ffmpeg to use
    #[arg(long, value_name = "PROGRAM", default_value = "ffmpeg")]
    pub(crate) ffmpeg: PathBuf,
}

/// What a child becomes.
#[derive(Debug, Args)]
pub(crate) struct FeedChild {
    /// Who started it
    #[arg(long)]
    pub(crate) parent: u32,
    /// Whether it may open sockets
    #[arg(long)]
    pub(crate) network: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

/// What a gateway shall be.
#[derive(Debug, Args)]
pub(crate) struct Sip {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Its settings, in TOML
    #[arg(value_name = "FILE", default_value = "sip.toml")]
    pub(crate) file: PathBuf,
}

/// What a load shall be.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// A server that runs; tokens are made with the key in its state folder, or are UPRTC_TOKEN [default: with --state the
    /// one that runs with that folder, else one of our own]
    #[arg(long, global = true, value_name = "HOST:PORT|URL")]
    pub(crate) server: Option<String>,
    /// Processes whose CPU and memory are measured; may be repeated [default: the planes of the state folder]
    #[arg(long, global = true, value_name = "PID")]
    pub(crate) pid: Vec<u32>,
    /// Workers of the server of our own
    #[arg(long, global = true, value_name = "N", default_value_t = 1)]
    pub(crate) workers: usize,
    /// How long to measure, after everybody has joined
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10.0, value_parser = parse_seconds)]
    pub(crate) seconds: f64,
    /// Threads that carry the peers' media
    #[arg(long, global = true, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// Again and again, each time a quarter more, until more than 1 % is lost or joins fail
    #[arg(long, global = true)]
    pub(crate) ramp: bool,
    /// Print the results as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) media: LoadMedia,
    #[command(subcommand)]
    pub(crate) scenario: LoadScenario,
}

/// Who joins where.
#[derive(Debug, Subcommand)]
pub(crate) enum LoadScenario {
    /// One sends by WHIP, N receive by WHEP: 25 frames of 10 packets, and 50 packets of audio a second
    Broadcast {
        /// How many receive
        #[arg(long, value_name = "N", default_value_t = 150)]
        viewers: usize,
    },
    /// Rooms in which everybody sends and receives: 25 packets of video and 50 of audio a second each
    Meetings {
        /// How many rooms
        #[arg(long, value_name = "M", default_value_t = 8)]
        rooms: usize,
        /// Peers of each
        #[arg(long, value_name = "K", default_value_t = 8)]
        peers: usize,
    },
    /// Peers come, stay a while and go, in rooms of three
    Churn {
        /// How many come a second
        #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = parse_seconds)]
        joins_per_second: f64,
        /// How long each stays
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
        stay: Duration,
    },
    /// Meetings in which each peer loses packets, each way, and asks for them again
    Loss {
        /// Of a hundred packets, how many
        #[arg(long, value_name = "P", default_value_t = 5.0, value_parser = parse_percent)]
        percent: f64,
        /// How many rooms
        #[arg(long, value_name = "M", default_value_t = 8)]
        rooms: usize,
        /// Peers of each
        #[arg(long, value_name = "K", default_value_t = 8)]
        peers: usize,
    },
    /// Peers that joined and send nothing, in rooms of eight: what they cost in memory
    Idle {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 256)]
        peers: usize,
    },
}

/// What each sender of a load sends.
#[derive(Debug, Default, Args)]
pub(crate) struct LoadMedia {
    /// Encodings of each camera (simulcast by RID), up to 3: 180 lines with 100 kb/s, 360 with 350 and 720 with what the other options say, at least
    /// 4 packets of a frame unless they do. In meetings each peer shows the others in these sizes in turn, and the report says which encodings came;
    /// encodings that nobody receives are not sent
    #[arg(long, global = true, value_name = "N", default_value_t = 1, value_parser = parse_encodings)]
    pub(crate) encodings: usize,
    /// Frames of video a second; 0 for none
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=240))]
    pub(crate) fps: Option<u32>,
    /// Packets of a frame; of several encodings, of the largest
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) frame_packets: Option<u32>,
    /// Bytes of a video packet's payload
    #[arg(long, global = true, value_name = "BYTES")]
    pub(crate) video_bytes: Option<usize>,
    /// Over how many milliseconds (fractions, too) a frame's packets are spread, instead of one directly after the other
    #[arg(long, global = true, value_name = "MS", value_parser = spread)]
    pub(crate) spread_ms: Option<f64>,
    /// Packets of audio a second; 0 for none
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) audio_rate: Option<u32>,
    /// Bytes of an audio packet's payload
    #[arg(long, global = true, value_name = "BYTES")]
    pub(crate) audio_bytes: Option<usize>,
}

/// What every command needs to know.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Common {
    /// Settings in TOML, as deploy/uprtc.toml lists them; UPRTC_… variables and options given here win
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// State folder: signing key, locks, and the socket by which the planes find each other [default:
    /// $XDG_STATE_HOME/uprtc or ~/.local/state/uprtc; for commands to a server also /var/lib/uprtc, if one runs
    /// there]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Any key of the settings file; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
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
    /// How packets come and leave: udp, uring, auto, which is the cheaper of these two, or frames, which is faster and
    /// passes by the firewall [default: auto]
    #[arg(long, value_name = "HOW")]
    pub(crate) io: Option<String>,
}

/// What concerns the controlplane.
#[derive(Debug, Default, Args)]
pub(crate) struct Endpoints {
    /// Where HTTP and WebSocket are served; port 0 takes any [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The certificate and its chain in PEM, to serve HTTPS; with --tls-key [default: plain HTTP]
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<String>,
    /// The certificate's private key in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<String>,
    /// Origin whose pages may use REST, WHIP, WHEP and sockets, or '*' for any; may be repeated [default: none may use
    /// REST, any the others]
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// Where STUN is served; port 0 takes any [default: port 3478 of the first media address]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) stun: Option<SocketAddr>,
    /// Under which address clients reach pages and signalling, for the links that are printed [default: the name in the
    /// certificate, or the address]
    #[arg(long, value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// Behind a NAT: under which address clients reach a media address; may be repeated
    #[arg(long, value_name = "IP=IP")]
    pub(crate) announce: Vec<String>,
}

/// What a look at the machine shall do.
#[derive(Debug, Default, Args)]
pub(crate) struct Doctor {
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
    /// Where it serves HTTP: HOST:PORT, or `https://HOST[:PORT][/PREFIX]` for one elsewhere [default: the one that runs with
    /// the state folder]
    #[arg(long, value_name = "SERVER")]
    pub(crate) server: Option<String>,
    /// Certificates in PEM that a server elsewhere is trusted by [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// What a recording shall be.
#[derive(Debug, Args)]
pub(crate) struct Record {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Which rooms
    #[arg(required_unless_present = "orders", conflicts_with = "orders", value_name = "ROOM")]
    pub(crate) rooms: Vec<String>,
    /// Wait for orders of the server, and record the rooms that it says (docs/SERVICES.md)
    #[arg(long)]
    pub(crate) orders: bool,
    /// With --orders: how many rooms it records at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) tasks_max: u16,
    /// In this folder each recording makes one of its own; or an S3-compatible store, which AWS_ENDPOINT_URL, AWS_REGION,
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY describe
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX", value_parser = parse_to)]
    pub(crate) to: To,
    /// The folder where recordings wait for the store [default: recordings in the state folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,
    /// What may be in that folder, with everything that is there already, in millions of bytes [default: what the disk has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1_000_000_000))]
    pub(crate) quota_mb: Option<u64>,
    /// The name that others in the room see
    #[arg(long, value_name = "NAME", default_value = "Recorder")]
    pub(crate) name: String,
}

/// What is to be sent on.
#[derive(Debug, Args)]
pub(crate) struct Live {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Which room
    #[arg(value_name = "ROOM", required_unless_present = "orders", conflicts_with = "orders")]
    pub(crate) room: Option<String>,
    /// Wait for orders of the server, and send on the rooms that it says (docs/SERVICES.md)
    #[arg(long, conflicts_with_all = ["to", "rtmp", "video"])]
    pub(crate) orders: bool,
    /// With --orders: how many rooms it sends on at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) tasks_max: u16,
    /// Serve players at this address, as http://ADDRESS/ROOM/index.m3u8
    #[arg(long, value_name = "IP:PORT", required_unless_present_any = ["to", "rtmp", "orders"])]
    pub(crate) listen: Option<SocketAddr>,
    /// Write the same into this folder, for any web server, with more delay
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Push it to this address by RTMP, with ffmpeg; the stream's key is the address's last part, or UPRTC_RTMP_KEY, which nobody
    /// sees in the list of processes
    #[arg(long, value_name = "rtmp://HOST/APP[/KEY]")]
    pub(crate) rtmp: Option<String>,
    /// Show the picture of who has this name [default: of who shares a screen, else of the first with a camera]
    #[arg(long, value_name = "NAME")]
    pub(crate) video: Option<String>,
    /// How sound is encoded [default: aac if ffmpeg is there, else opus]
    #[arg(long, value_enum)]
    pub(crate) sound: Option<Sound>,
    /// The program that encodes AAC
    #[arg(long, value_name = "FILE", default_value = "ffmpeg")]
    pub(crate) ffmpeg: String,
    /// The name that others in the room see
    #[arg(long, value_name = "NAME", default_value = "Live")]
    pub(crate) name: String,
}

/// How sound is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Sound {
    /// By ffmpeg, for all players
    Aac,
    /// By libopus, for browsers other than Safari
    Opus,
}

/// Where recordings go.
#[derive(Clone, Debug)]
pub(crate) enum To {
    Folder(PathBuf),
    Store(record::store::Place),
}

fn parse_to(text: &str) -> Result<To, String> {
    if !text.starts_with("s3:") {
        return Ok(To::Folder(text.into()));
    }
    record::store::Place::parse(text).map(To::Store).ok_or_else(|| format!("{text:?} is not s3://BUCKET/PREFIX"))
}

/// How something is shown.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a token shall say.
#[derive(Clone, Debug, Args)]
pub(crate) struct Token {
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
    /// May send data: true or false; without this as --publish
    #[arg(long, value_name = "BOOL")]
    pub(crate) data: Option<bool>,
    /// May see and change rooms through the API
    #[arg(long)]
    pub(crate) admin: bool,
    /// May invite others to the room
    #[arg(long)]
    pub(crate) invite: bool,
    /// May start and stop recordings of the room
    #[arg(long)]
    pub(crate) record: bool,
    /// What its bearer is, if it is no person's device: recorder, streamer, telephone or feed. It may wait for orders as such a
    /// service (docs/SERVICES.md)
    #[arg(long, value_name = "ROLE", value_parser = parse_role)]
    pub(crate) role: Option<Role>,
    /// How long it is good: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::named(text).ok_or_else(|| format!("{text:?} is none of {}", Role::ALL.map(Role::name).join(", ")))
}

/// More than none and less than a day.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|&seconds: &f64| seconds > 0.0 && seconds < 86_400.0);
    seconds.ok_or_else(|| format!("{text:?} is not a number above 0"))
}

fn parse_encodings(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=3).contains(count));
    count.ok_or_else(|| format!("{text:?} is not a number from 1 to 3"))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=50.0).contains(percent));
    percent.ok_or_else(|| format!("{text:?} is not a number from 0 to 50"))
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

fn spread(text: &str) -> Result<f64, String> {
    let millis = text.parse().ok().filter(|millis| (0.0..=1000.0).contains(millis));
    millis.ok_or_else(|| "not 0 to 1000".into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

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
        let cli = "uprtc link --room demo --name N --publish --subscribe --ttl 1h --state s";
        assert!(Cli::try_parse_from(cli.split_whitespace()).is_ok());
        let cli = "uprtc doctor --json --state s --config c.toml --set peers-max=3 --set rooms-max=2";
        assert!(Cli::try_parse_from(cli.split_whitespace()).is_ok());
        assert!(Cli::try_parse_from(["uprtc", "dataplane", "--listen", "127.0.0.1:0"]).is_err());
    }

    #[test]
    fn what_every_command_takes_stands_before_or_after_it() {
        for line in [
            "uprtc --set a=1 --state s load --set=b=2 broadcast --set c=3",
            "uprtc load --state s --set a=1 --set=b=2 --set c=3 broadcast",
            "uprtc load broadcast --set a=1 --set=b=2 --set c=3 --state s",
        ] {
            let (common, command) = Cli::parse_from(gathered(line.split_whitespace().map(OsString::from))).split();
            assert!(matches!(command, Command::Load(_)), "{line}");
            assert_eq!((common.set.join(" "), common.state), ("a=1 b=2 c=3".to_owned(), Some("s".into())), "{line}");
        }
        for line in ["uprtc --state s rooms", "uprtc rooms --state s", "uprtc --state s"] {
            assert_eq!(Cli::parse_from(line.split_whitespace()).split().0.state, Some("s".into()), "{line}");
        }
        let words = |line: &str| gathered(line.split_whitespace().map(OsString::from)).join(OsStr::new(" "));
        assert_eq!(words("uprtc --set a=1 kick -- --set b"), "uprtc kick --set a=1 -- --set b");
        assert_eq!(words("uprtc kick --set"), "uprtc kick --set");
    }
}
