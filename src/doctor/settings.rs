//! What the settings of this edge name: its state folder and key, its media addresses and ports, and the instance that
//! may be running with them.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use controlplane::auth::KEY_FILE;
use controlplane::nodes;
use controlplane::registry::LEFT_OUT_PREFIX;
use controlplane::tls::{Files, Pair, PairError};

use super::Finding;
use super::reachability::{self, Scope};
use crate::options::Options;
use crate::remote::Server;
use crate::running::{Planes, Running};

/// A certificate that is good for less long should have been renewed: certbot does so 30 days before.
const CERTIFICATE_SPARE_S: u64 = 14 * 86_400;

/// How long a running instance may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn look(options: &Options, running: Planes) -> Vec<Finding> {
    let mut findings = vec![state(&options.state), key(&options.state.join(KEY_FILE))];
    findings.extend(left_out(&options.state));
    let is_for_this_machine = reachability::is_for_this_machine(options);
    findings.extend(options.media_ips.iter().map(|&ip| media_ip(ip, is_for_this_machine)));
    findings.extend(options.rooms.announce.iter().map(|&(bound, public)| announce(bound, public)));
    findings.push(media_ports(options, running.dataplane));
    findings.push(port("listen", Protocol::Tcp, options.listen, running.controlplane));
    findings.push(port("stun", Protocol::Udp, options.stun(), running.controlplane));
    findings.push(tls(options.tls().as_ref(), SystemTime::now()));
    findings.extend(cluster(options));
    let listen = Running::find(&options.state).map_or(options.listen, |running| running.listen);
    findings.extend(instance(&Server::own(options, listen), listen.port(), running));
    findings
}

/// What a start could not read of what operators had decided.
fn left_out(state: &Path) -> Option<Finding> {
    let mut paths = fs::read_dir(state).ok()?.flatten().map(|entry| entry.path());
    let is_left_out = |path: &PathBuf| path.file_name()?.to_str()?.starts_with(LEFT_OUT_PREFIX).then_some(());
    let path = paths.find(|path| is_left_out(path).is_some())?;
    let found = format!("{} holds rooms or revocations that could not be read at a start", path.display());
    Some(Finding::warn("registry", found, "make them again by REST, then remove the file"))
}

fn state(path: &Path) -> Finding {
    const CHECK: &str = "state";
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Finding::ok(CHECK, format!("{shown} is made at the first start"));
        }
        Err(error) => return unusable(CHECK, path, &error),
    };
    if !metadata.is_dir() {
        return Finding::fail(CHECK, format!("{shown} is no folder"), "choose another with --state");
    }
    let open = format!("{shown} is open to others (mode {:03o})", metadata.mode() & 0o777);
    let mend = format!("chmod 700 {shown}");
    match metadata.mode() {
        // Who can replace the key can sign tokens.
        mode if mode & 0o022 != 0 => return Finding::fail(CHECK, open, mend),
        mode if mode & 0o055 != 0 => return Finding::warn(CHECK, open, mend),
        _ => {}
    }
    if !is_ours(&metadata) {
        let finding = format!("{shown} belongs to user {}, and this is another", metadata.uid());
        return Finding::warn(CHECK, finding, format!("sudo -u '#{}' uprtc doctor", metadata.uid()));
    }
    match rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => Finding::ok(CHECK, format!("{shown}, closed to others")),
        Err(error) => unusable(CHECK, path, &error.into()),
    }
}

fn unusable(check: &'static str, path: &Path, error: &io::Error) -> Finding {
    let shown = path.display();
    Finding::fail(
        check,
        format!("{shown}: {error}"),
        format!("give it to the user that runs uprtc: chown uprtc {shown}"),
    )
}

fn is_ours(metadata: &Metadata) -> bool {
    let own = rustix::process::geteuid();
    own.is_root() || metadata.uid() == own.as_raw()
}

fn key(path: &Path) -> Finding {
    const CHECK: &str = "key";
    let shown = path.display();
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Finding::ok(CHECK, "is made at the first start"),
        Err(error) => unusable(CHECK, path, &error),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => Finding::fail(
            CHECK,
            format!("{shown} can be read by others (mode {:03o}), who can sign tokens", metadata.mode() & 0o777),
            format!("rm {shown} (which ends all tokens), or chmod 600 {shown} if nobody did"),
        ),
        Ok(_) => Finding::ok(CHECK, format!("{shown}, closed to others")),
    }
}

fn media_ip(ip: IpAddr, is_for_this_machine: bool) -> Finding {
    const CHECK: &str = "media-ip";
    if ip.is_unspecified() || ip.is_multicast() {
        let finding = format!("{ip} is no address that clients can send to");
        return Finding::fail(CHECK, finding, "--media-ip with an address that `ip addr` shows");
    }
    if let Err(error) = UdpSocket::bind((ip, 0)) {
        let finding = format!("{ip} is not usable on this machine: {error}");
        let mend = "--media-ip with an address that `ip addr` shows, and behind a NAT --announce THAT=PUBLIC";
        return Finding::fail(CHECK, finding, mend);
    }
    match ip.is_loopback() && !is_for_this_machine {
        true => Finding::warn(
            CHECK,
            format!("{ip}: only this machine can call"),
            "--media-ip with the address under which clients reach this machine",
        ),
        false => Finding::ok(CHECK, ip.to_string()),
    }
}

/// A public address that a router translates. What it does with ports cannot be seen from here.
fn announce(bound: IpAddr, public: IpAddr) -> Finding {
    const CHECK: &str = "announce";
    match Scope::of(public) < Scope::Internet {
        true => Finding::warn(
            CHECK,
            format!("{bound} is announced as {public}, which the Internet does not reach"),
            "the public address that the cloud's console or the router shows",
        ),
        false if UdpSocket::bind((public, 0)).is_ok() => Finding::warn(
            CHECK,
            format!("{public} is this machine's own, and is announced for {bound}"),
            format!("media-ip = [\"{public}\"] and no announce"),
        ),
        false => {
            Finding::ok(CHECK, format!("{bound} is reached as {public}, if its UDP ports are passed on as they are"))
        }
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
}

/// All UDP ports of the workers in one finding: the first that is not free, or that all are.
fn media_ports(options: &Options, is_running: bool) -> Finding {
    const CHECK: &str = "media-port";
    let base = options.media_port;
    if base == 0 {
        return Finding::warn(CHECK, "0 takes any port, which no firewall can follow", "--media-port 40000");
    }
    let Some(last) = u16::try_from(options.workers - 1).ok().and_then(|more| base.checked_add(more)) else {
        let finding = format!("{} workers do not fit above port {base}", options.workers);
        return Finding::fail(CHECK, finding, "lower --media-port or --workers");
    };
    let usable = options.media_ips.iter().filter(|&&ip| UdpSocket::bind((ip, 0)).is_ok());
    let protocols = if options.ice_tcp { &[Protocol::Udp, Protocol::Tcp][..] } else { &[Protocol::Udp] };
    let all = usable.flat_map(|&ip| (base..=last).map(move |port| SocketAddr::new(ip, port)));
    let mut held = None;
    for (address, &protocol) in all.flat_map(|address| protocols.iter().map(move |protocol| (address, protocol))) {
        let finding = port(CHECK, protocol, address, is_running);
        match (&finding.mend, protocol) {
            (Some(_), Protocol::Udp) => return finding,
            // It takes another one.
            (Some(_), Protocol::Tcp) => {
                let mend = "stop it, or ice-tcp = false";
                return Finding::warn(
                    CHECK,
                    format!("{}: ICE over TCP will be at another port", finding.finding),
                    mend,
                );
            }
            _ if !finding.finding.ends_with("is free") => held = Some(finding),
            _ => {}
        }
    }
    let names = if options.ice_tcp { "UDP and TCP" } else { "UDP" };
    held.unwrap_or_else(|| Finding::ok(CHECK, format!("{names} {base} to {last} are free")))
}

/// Whether a port is free, or held by our own instance.
fn port(check: &'static str, protocol: Protocol, address: SocketAddr, is_running: bool) -> Finding {
    let (name, tried) = match protocol {
        Protocol::Tcp => ("TCP", TcpListener::bind(address).map(drop)),
        Protocol::Udp => ("UDP", UdpSocket::bind(address).map(drop)),
    };
    match tried {
        Ok(()) => Finding::ok(check, format!("{name} {address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => taken(check, name, protocol, address, is_running),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Finding::fail(
            check,
            format!("{name} {address}: {error}"),
            "a port above 1023, or AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit",
        ),
        Err(error) => Finding::fail(
            check,
            format!("{name} {address}: {error}"),
            format!("an address that `ip addr` shows for {check}"),
        ),
    }
}

fn taken(check: &'static str, name: &str, protocol: Protocol, address: SocketAddr, is_running: bool) -> Finding {
    let holder = holder(protocol, address.port());
    let (who, is_uprtc) = match &holder {
        Some((pid, program)) => (format!("{program} (process {pid})"), program == "uprtc"),
        // Whose sockets they are is shown to their own user only.
        None => ("a process that this user may not see".to_owned(), is_running),
    };
    match is_running && is_uprtc {
        true => Finding::ok(check, format!("{name} {address} is held by this edge, {who}")),
        false => {
            let mend = format!("stop it, or move uprtc with --{check}");
            Finding::fail(check, format!("{name} {address} is taken by {who}"), mend)
        }
    }
}

/// The process that has a socket on this port, by the kernel's tables.
fn holder(protocol: Protocol, port: u16) -> Option<(u32, String)> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let texts: Vec<String> = tables.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    let links: Vec<String> =
        texts.iter().flat_map(|text| inodes(text, port)).map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .find(|(_, path)| {
            let descriptors = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
            descriptors
                .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
                .any(|link| links.iter().any(|wanted| link.as_os_str() == wanted.as_str()))
        })
        .map(|(pid, path)| (pid, fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned()))
}

/// Inodes of the sockets in a table of /proc/net that are bound to this port and connected to nobody.
fn inodes(table: &str, port: u16) -> impl Iterator<Item = &str> {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, remote, inode) = (fields.get(1)?, fields.get(2)?, fields.get(9)?);
        (local.ends_with(&suffix) && remote.ends_with(":0000")).then_some(*inode)
    })
}

/// Health and readiness of the instance that runs with these settings.
fn instance(server: &Server, port: u16, running: Planes) -> Vec<Finding> {
    const CHECK: &str = "instance";
    match running {
        Planes { dataplane: false, controlplane: false } => return vec![Finding::ok(CHECK, "none runs here now")],
        Planes { controlplane: false, .. } => {
            return vec![Finding::fail(CHECK, "a dataplane runs without a controlplane", "start uprtc controlplane")];
        }
        Planes { .. } if port == 0 => {
            return vec![Finding::ok(CHECK, "a controlplane runs on a port of the kernel's choice")];
        }
        Planes { .. } => {}
    }
    let mend = "journalctl -u uprtc-controlplane -u uprtc-dataplane";
    ["/healthz", "/readyz"]
        .map(|path| match server.ask("GET", path, None, None, ANSWER_TIMEOUT).map(|answer| answer.status) {
            Ok(200) => Finding::ok(CHECK, format!("{path} says 200")),
            Ok(status) => Finding::fail(CHECK, format!("{path} says {status}"), mend),
            Err(error) => Finding::fail(CHECK, format!("{path} on {}: {error}", server.name()), mend),
        })
        .into()
}

/// The cluster, asked as a node with these settings would.
fn cluster(options: &Options) -> Vec<Finding> {
    const CHECK: &str = "cluster";
    let Some(cluster) = options.cluster() else {
        return vec![Finding::ok(CHECK, "none: this edge serves alone")];
    };
    let mut findings = vec![match nodes::inspect(&cluster, &options.state) {
        Ok(found) => Finding::ok(CHECK, found),
        Err(error) => {
            let mend = "mend it, or `cluster = []` to serve alone; docs/EDGES.md";
            Finding::fail(CHECK, error.to_string(), mend)
        }
    }];
    let is_plain = cluster.servers.iter().any(|server| !nodes::is_secure(server));
    let is_near =
        |server: &String| server.contains("://127.") || server.contains("://localhost") || server.contains("://[::1]");
    if is_plain && !cluster.servers.iter().all(is_near) {
        let finding = "the nodes speak to NATS without TLS: who is on the way reads and changes what they say";
        findings.push(Finding::warn(CHECK, finding, "tls:// in `cluster`, unless that network is a VPN"));
    }
    findings
}

/// The certificate of the HTTP interface, read as the server reads it.
fn tls(files: Option<&Files>, now: SystemTime) -> Finding {
    const CHECK: &str = "tls";
    let Some(files) = files else {
        return Finding::ok(
            CHECK,
            "not spoken here: no tls-cert. A proxy in front does, or nobody calls from elsewhere",
        );
    };
    let key = files.key.display();
    let pair = match Pair::load(files) {
        Ok(pair) => pair,
        Err(error) => {
            let mend = match &error {
                PairError::Unreadable { path, .. } => {
                    format!("chgrp uprtc {0} && chmod 640 {0}, and its folders", path.display())
                }
                PairError::Mismatch(_) => {
                    "tls-cert and tls-key from the same issue: fullchain.pem and privkey.pem".into()
                }
                PairError::NotPem { .. } | PairError::Unusable { .. } => {
                    "tls-cert = fullchain.pem, tls-key = privkey.pem, as certbot writes them".into()
                }
            };
            return Finding::fail(CHECK, error.to_string(), mend);
        }
    };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = pair.expires_at().saturating_sub(now) / 86_400;
    const RENEW: &str = "certbot renew; a running server takes the new files over by itself";
    match pair.expires_at() {
        at if at <= now => return Finding::fail(CHECK, "the certificate has expired: browsers refuse it", RENEW),
        at if at - now < CERTIFICATE_SPARE_S => {
            return Finding::warn(CHECK, format!("the certificate expires in {days} days"), RENEW);
        }
        _ => {}
    }
    match fs::metadata(&files.key).map(|metadata| metadata.mode()) {
        Ok(mode) if mode & 0o007 != 0 => {
            let finding = format!("everybody may read {key} (mode {:03o})", mode & 0o777);
            Finding::warn(CHECK, finding, format!("chmod 640 {key}"))
        }
        _ => Finding::ok(CHECK, format!("certificate and key fit, good for {days} days")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::super::Level;
    use super::*;

    /// A folder of the test's own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("uprtc-doctor-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn set_mode(path: &Path, mode: u32) {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_folder_and_a_key_that_others_can_read_are_found() {
        let folder = Folder::new("modes");
        let file = folder.0.join(KEY_FILE);
        assert_eq!(key(&file).level, Level::Ok, "none yet");
        fs::write(&file, [0; 32]).unwrap();
        for (mode, level) in [(0o600, Level::Ok), (0o640, Level::Fail), (0o604, Level::Fail)] {
            Folder::set_mode(&file, mode);
            assert_eq!(key(&file).level, level, "{mode:o}");
        }
        for (mode, level) in [(0o700, Level::Ok), (0o755, Level::Warn), (0o710, Level::Warn), (0o770, Level::Fail)] {
            Folder::set_mode(&folder.0, mode);
            let finding = state(&folder.0);
            assert_eq!(finding.level, level, "{mode:o}");
            assert_eq!(finding.mend.is_some_and(|mend| mend.contains("chmod 700")), level != Level::Ok);
        }
        assert_eq!(state(&folder.0.join("missing")).level, Level::Ok);
        assert_eq!(state(&file).level, Level::Fail, "a file is no folder");
    }

    #[test]
    fn what_was_left_out_of_the_registry_is_found() {
        let folder = Folder::new("left-out");
        assert!(left_out(&folder.0).is_none() && left_out(&folder.0.join("missing")).is_none());
        fs::write(folder.0.join("registry.json"), "{}").unwrap();
        assert!(left_out(&folder.0).is_none());
        fs::write(folder.0.join(format!("{LEFT_OUT_PREFIX}1795415232.json")), "[]").unwrap();
        assert_eq!(left_out(&folder.0).unwrap().level, Level::Warn);
    }

    #[test]
    fn a_taken_port_is_found_with_its_holder() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = std::process::id();
        for (protocol, address) in
            [(Protocol::Udp, udp.local_addr().unwrap()), (Protocol::Tcp, tcp.local_addr().unwrap())]
        {
            assert_eq!(holder(protocol, address.port()).map(|(pid, _)| pid), Some(own));
            let finding = port("stun", protocol, address, false);
            assert!(finding.level == Level::Fail && finding.finding.contains(&format!("process {own}")), "{finding}");
            assert!(finding.mend.as_deref().unwrap().contains("--stun"), "{finding}");
        }
        // Below the ports that the kernel gives to whoever asks for any.
        let begin = 20_000 + (own % 10_000) as u16;
        let udp = (begin..).find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok()).unwrap();
        let base = udp.local_addr().unwrap().port();
        let options = Options { media_port: base, workers: 1, ..Options::default() };
        assert_eq!(media_ports(&options, false).level, Level::Fail);
        drop(udp);
        assert_eq!(media_ports(&options, false).level, Level::Ok);
        assert_eq!(media_ports(&Options { media_port: 65_535, workers: 2, ..options }, false).level, Level::Fail);
    }

    #[test]
    fn addresses_of_other_machines_are_found() {
        let level = |ip: &str, is_for_this_machine| media_ip(ip.parse().unwrap(), is_for_this_machine).level;
        assert_eq!((level("127.0.0.1", false), level("127.0.0.1", true)), (Level::Warn, Level::Ok));
        assert_eq!((level("192.0.2.77", false), level("0.0.0.0", false)), (Level::Fail, Level::Fail));
        let announced = |public: &str| announce("10.0.0.5".parse().unwrap(), public.parse().unwrap()).level;
        assert_eq!(
            (announced("203.0.113.7"), announced("10.0.0.6"), announced("fd00::1")),
            (Level::Ok, Level::Warn, Level::Warn)
        );
    }

    #[test]
    fn a_table_of_the_kernel_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:9C40 00000000:0000 07 00000000:00000000 00:00000000 00000000  0  0 4242 2 x 0\n\
            1: 0100007F:9C40 0100007F:0050 01 00000000:00000000 00:00000000 00000000  0  0 4343 2 x 0\n\
            2: 0100007F:9C41 00000000:0000 07 00000000:00000000 00:00000000 00000000  0  0 4444 2 x 0\nshort\n";
        assert_eq!(inodes(table, 40_000).collect::<Vec<_>>(), ["4242"]);
    }

    #[test]
    fn an_instance_that_does_not_answer_fails() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        drop(silent);
        let (server, port) = (Server::own(&Options::default(), address), address.port());
        let findings = instance(&server, port, Planes { dataplane: true, controlplane: true });
        assert!(findings.len() == 2 && findings.iter().all(|finding| finding.level == Level::Fail));
        let findings = instance(&server, port, Planes { dataplane: true, controlplane: false });
        assert_eq!(findings[0].level, Level::Fail);
        assert_eq!(instance(&server, port, Planes { dataplane: false, controlplane: false })[0].level, Level::Ok);
    }

    #[test]
    fn a_certificate_is_looked_at_as_the_server_does() {
        let folder = Folder::new("tls");
        let files = Files { certificate: folder.0.join("cert.pem"), key: folder.0.join("key.pem") };
        let expires = 2_177_452_800; // 2039-01-01
        let at = |days: u64| UNIX_EPOCH + Duration::from_secs(expires - days * 86_400);
        let level = |now| tls(Some(&files), now).level;
        assert_eq!(tls(None, at(100)).level, Level::Ok);
        assert_eq!(level(at(100)), Level::Fail, "there is none");

        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2039, 1, 1);
        fs::write(&files.certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        Folder::set_mode(&files.key, 0o640);
        assert_eq!((level(at(100)), level(at(13)), level(at(0))), (Level::Ok, Level::Warn, Level::Fail));
        assert!(tls(Some(&files), at(13)).mend.unwrap().contains("certbot renew"));
        Folder::set_mode(&files.key, 0o644);
        assert_eq!(level(at(100)), Level::Warn, "everybody may read the key");
        fs::write(&files.key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(tls(Some(&files), at(100)).finding.contains("is not that of the certificate"));
    }
}
