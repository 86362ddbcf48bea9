use controlplane::policy::VideoCodecs;
use proto::signal::VideoCodec;

use super::*;

/// What operators copy to /etc.
const DOCUMENTED: &str = include_str!("../../deploy/uprtc.toml");

fn parse(text: &str) -> Result<Options, String> {
    let mut options = Options::default();
    let result = apply_file(&mut options, Path::new("uprtc.toml"), text);
    result.map(|()| options).map_err(|error| error.to_string())
}

fn with_variables(variables: &[(&str, &str)]) -> Result<Options, String> {
    let mut options = Options::default();
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let result = apply_variables(&mut options, variables, &mut Vec::new());
    result.map(|()| options).map_err(|error| error.to_string())
}

/// A setting in deploy/uprtc.toml is a line that begins with `#` and its name; prose has a space after the `#`.
fn setting(line: &str) -> Option<&str> {
    let setting = line.strip_prefix('#')?;
    setting.starts_with(|char: char| char.is_ascii_lowercase()).then_some(setting)
}

#[test]
fn the_documented_file_has_every_key_and_its_default() {
    let uncommented: Vec<&str> = DOCUMENTED.lines().map(|line| setting(line).unwrap_or(line)).collect();
    let options = parse(&uncommented.join("\n")).unwrap();
    assert_eq!(options, Options::default(), "a documented default is not the code's");
    assert_eq!(parse(DOCUMENTED), Ok(Options::default()), "as delivered it changes nothing");

    let lines: Vec<&str> = DOCUMENTED.lines().collect();
    let mut documented = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, _)) = setting(line).and_then(|setting| setting.split_once(" = ")) else { continue };
        documented.push(name);
        let key = keys::find(name).unwrap();
        let begin = lines[..at].iter().rposition(|line| !line.starts_with("# ")).map_or(0, |before| before + 1);
        let prose = lines[begin..at].join(" ").replace(" # ", " ");
        let range = format!("({}", key.range());
        assert!(prose.contains(&range), "{name}: {prose:?} does not say {range:?}");
        assert_eq!(prose.contains("; live)"), key.is_live, "{name}: {prose:?}");
    }
    assert_eq!(documented, KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
}

#[test]
fn what_a_supervisor_writes_for_its_planes_reads_back() {
    let mut options =
        Options { log: "info,[span{field=\"x\"}]=debug".into(), workers: 3, is_pinned: false, ..Options::default() };
    options.media_ips = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    options.rooms.announce = vec![(options.media_ips[0], "203.0.113.7".parse().unwrap())];
    options.log_format = LogFormat::Json;
    options.stun = Some("192.0.2.1:3479".parse().unwrap());
    options.public_url = PublicUrl::parse("https://call.example:8443/prefix");
    options.cors_origins = vec!["https://a.example".into(), "https://b.example".into()];
    (options.tls_cert, options.tls_key) = ("/etc/a b.pem".into(), "/etc/key.pem".into());
    options.metrics = Audience::Admin;
    options.rooms.expire_peers = true;
    options.rooms.peers_max = 3;
    options.rooms.codecs = VideoCodecs::new(&[VideoCodec::Av1, VideoCodec::H264]).unwrap();
    options.limits.sockets_max = 77;
    options.rooms.sockets_max = 77;
    assert_eq!(parse(&write(&options)).unwrap(), Options { log: options.log.clone(), ..options });
}

#[test]
fn a_mistake_is_refused_with_its_file_and_line() {
    for (text, line, says) in [
        ("listen = '0.0.0.0:80'\n\nlisen = '0.0.0.0:80'\n", 3, "did you mean \"listen\""),
        ("peers-max = 8\nmedia-port = 70000\n", 2, "0 to 65535"),
        ("peers-max = '8'\n", 1, "1 to 1000"),
        ("peers-max = -8\n", 1, "1 to 1000"),
        ("media-ip = [\n  '127.0.0.1',\n  12,\n]\n", 1, "addresses"),
        ("[rooms]\npeers-max = 8\n", 1, "unknown key \"rooms\""),
        ("# a\nlisten = \n", 2, ""),
        ("peers-max = 8\npeers-max = 8\n", 2, ""),
        ("offer-timeout = 20\n", 1, "1s to 5m"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("uprtc.toml:{line}: ")) && error.contains(says), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_settings_file_has_the_names_of_the_options() {
    let options = parse(
        "listen = '0.0.0.0:80'\nstun = '[::]:3478'\nmedia-ip = ['192.0.2.1', '2001:db8::1']\nmedia-port = 50_000\n\
         workers = 8\nstate = '/var/lib/uprtc'\nresume-timeout = '2m'\npeers-max = 0x10\n",
    )
    .unwrap();
    assert_eq!(options.media_ips.len(), 2);
    assert_eq!((options.media_port, options.workers, options.rooms.peers_max), (50_000, 8, 16));
    assert_eq!(options.rooms.resume_timeout.as_secs(), 120);
    assert_eq!(options.state, Path::new("/var/lib/uprtc"));
}

#[test]
fn a_cluster_is_whole_or_refused_and_reads_back() {
    let whole = "cluster = ['tls://a:4222', 'tls://[2001:db8::1]']\nnode = 'fra1'\nregion = 'eu'\ncarrier = 'north'\n\
                 cluster-name = 'calls'\ncluster-ca = '/etc/ca.pem'\ncluster-credentials = '/etc/nats.nk'\n\
                 cluster-lease = '1m'\nrelay-ips = ['10.0.0.5', 'fd00::5']\nannounce = []\n";
    let options = parse(whole).unwrap();
    check_together(&options).unwrap();
    assert_eq!(parse(&write(&options)).unwrap(), options);
    let cluster = options.cluster().unwrap();
    assert_eq!((cluster.servers.len(), cluster.node.as_str(), cluster.lease.as_secs()), (2, "fra1", 60));
    assert_eq!(Options::default().cluster(), None);
    for (from, to, says) in [
        ("node = 'fra1'\n", "", "cluster needs node"),
        ("'tls://[2001:db8::1]'", "'nats://b'", "with TLS and without"),
        ("tls://", "nats://", "cluster-ca needs tls://"),
    ] {
        let error = check_together(&parse(&whole.replace(from, to)).unwrap()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn variables_stand_above_the_file_and_the_command_line_above_both() {
    let mut options = parse("peers-max = 4\nmedia-port = 1000\nstun = '127.0.0.1:1'\n").unwrap();
    let variables = [("UPRTC_MEDIA_PORT", "2000"), ("UPRTC_STUN", "127.0.0.1:2"), ("UPRTC_MEDIA_IP", "::1, 127.0.0.2")];
    let mut remarks = Vec::new();
    let typed = variables.into_iter().chain([("UPRTC_LISEN", "x")]);
    apply_variables(&mut options, typed.map(|(a, b)| (a.into(), b.into())), &mut remarks).unwrap();
    assert_eq!(remarks.len(), 1);
    assert!(remarks[0].contains("UPRTC_LISEN is ignored") && remarks[0].contains("\"listen\""), "{remarks:?}");
    let sources = Sources {
        common: Common { set: vec!["rooms-max=5".into(), "stun=127.0.0.1:9".into()], ..Common::default() },
        endpoints: Endpoints { stun: Some("127.0.0.1:3".parse().unwrap()), ..Endpoints::default() },
        ..Sources::default()
    };
    sources.apply_command_line(&mut options).unwrap();
    assert_eq!((options.rooms.peers_max, options.media_port, options.rooms.rooms_max), (4, 2000, 5));
    assert_eq!((options.stun().port(), options.media_ips.len()), (3, 2));

    let error = with_variables(&[("UPRTC_PEERS_MAX", "9999")]).unwrap_err();
    assert!(error.contains("UPRTC_PEERS_MAX=9999") && error.contains("1 to 1000"), "{error}");
    let foreign = [("UPRTC_PORT", "tcp://10.0.0.1:80"), ("UPRTC_LISTEN", ""), ("LISTEN", "x"), ("UPRTC_CONFIG", "x")];
    assert_eq!(with_variables(&foreign), Ok(Options::default()));
    let sources =
        Sources { common: Common { set: vec!["peers-max".into()], ..Common::default() }, ..Sources::default() };
    assert!(sources.apply_command_line(&mut options).unwrap_err().to_string().contains("KEY=VALUE"));
}

#[test]
fn values_that_do_not_fit_each_other_are_refused() {
    let error = check_together(&parse("slots-max = 14\n").unwrap()).unwrap_err().to_string();
    assert!(error.contains("slots-max = 14") && error.contains("15"), "{error}");
    let error = check_together(&parse("ping-interval = '1m'\n").unwrap()).unwrap_err().to_string();
    assert!(error.contains("idle-timeout"), "{error}");
    let error = check_together(&parse("announce = ['10.0.0.5=192.0.2.1']\n").unwrap()).unwrap_err().to_string();
    assert!(error.contains("10.0.0.5, which is not in media-ip"), "{error}");
    let error = check_together(&parse("tls-cert = '/x.pem'\n").unwrap()).unwrap_err().to_string();
    assert!(error.contains("tls-key"), "{error}");
    assert!(check_together(&parse("peers-max = 24\n").unwrap()).is_ok());
}

#[test]
fn a_reload_takes_over_what_it_can_and_nothing_of_a_broken_file() {
    let folder = std::env::temp_dir().join(format!("uprtc-options-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("uprtc.toml");
    let common = Common { config: Some(file.clone()), state: Some(folder.join("state")), ..Common::default() };
    let sources = Sources { common, ..Sources::default() };
    std::fs::write(&file, "peers-max = 4\nmedia-port = 1000\n").unwrap();
    let mut current = sources.resolve().unwrap();
    std::fs::write(&file, "peers-max = 5\nmedia-port = 2000\n").unwrap();
    assert!(sources.reload(&mut current, Role::Controlplane));
    assert_eq!((current.rooms.peers_max, current.media_port), (5, 1000), "a port needs a restart");
    std::fs::write(&file, "peers-max = 6\nmedia-prot = 2000\n").unwrap();
    assert!(!sources.reload(&mut current, Role::Controlplane));
    assert_eq!(current.rooms.peers_max, 5);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_default_state_folder_follows_the_environment() {
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(state_of_user(Some("/x".into()), Some("/home/a".into())), path("/x/uprtc"));
    assert_eq!(state_of_user(None, Some("/home/a".into())), path("/home/a/.local/state/uprtc"));
    assert_eq!(state_of_user(Some("relative".into()), Some("/home/a".into())), path("/home/a/.local/state/uprtc"));
    assert_eq!(state_of_user(None, None), None);
}

#[test]
fn stun_follows_the_media_address_unless_it_is_set() {
    let stun = |text: &str| parse(text).unwrap().stun().to_string();
    assert_eq!(stun(""), "127.0.0.1:3478");
    assert_eq!(stun("media-ip = ['192.0.2.1', '2001:db8::1']\n"), "192.0.2.1:3478");
    assert_eq!(stun("media-ip = '2001:db8::1'\n"), "[2001:db8::1]:3478");
    assert_eq!(stun("media-ip = '192.0.2.1'\nstun = '0.0.0.0:3479'\n"), "0.0.0.0:3479");
    assert_eq!(stun("stun = ''\n"), "127.0.0.1:3478");
}
