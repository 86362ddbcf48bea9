//! What a browser elsewhere would get of this edge: a page that may use a camera, media and STUN at addresses that it reaches,
//! a certificate for the name in its address bar. An edge for this machine alone is fine, and is said to be one.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use controlplane::http::PublicUrl;
use controlplane::tls::Names;

use super::Finding;
use crate::options::Options;
use crate::reach;
use crate::remote::Server;

/// How long the public address may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// From where an address is reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Scope {
    Machine,
    /// A network of its own: a home, an office, a cloud's inside.
    Network,
    Internet,
}

impl Scope {
    /// By the registries of special addresses (RFC 6890), as far as they are routed.
    pub(super) fn of(ip: IpAddr) -> Scope {
        let shared = |octets: [u8; 4]| octets[0] == 100 && octets[1] & 0xc0 == 64; // RFC 6598
        match ip.to_canonical() {
            ip if ip.is_loopback() => Scope::Machine,
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || shared(ip.octets()) => Scope::Network,
            IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Scope::Network,
            _ => Scope::Internet,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Scope::Machine => "this machine alone",
            Scope::Network => "its own network alone",
            Scope::Internet => "everywhere",
        }
    }
}

/// Whether all of this edge is at loopback addresses.
pub(super) fn is_for_this_machine(options: &Options) -> bool {
    let has_other_name = options
        .public_url
        .as_ref()
        .is_some_and(|url| host_scope(url.host()).is_none_or(|scope| scope > Scope::Machine));
    options.listen.ip().is_loopback() && media_scope(options) == Scope::Machine && !has_other_name
}

/// All findings; `is_running` if a controlplane answers now.
pub(super) fn look(options: &Options, is_running: bool) -> Vec<Finding> {
    if is_for_this_machine(options) {
        let finding =
            "for this machine only, by its settings; browsers elsewhere would need media-ip, listen and https";
        return vec![Finding::ok("reach", finding)];
    }
    let mut findings = vec![media(options), page(options)];
    findings.extend(open_beside_proxy(options));
    findings.push(stun(options));
    findings.extend(certificate(options));
    findings.push(firewall(Path::new("/"), &Needed::of(options)));
    if let Some(url) = options.public_url.as_ref().filter(|_| is_running) {
        findings.push(public_url(url));
    }
    findings
}

/// The addresses that clients are told, with those that are bound.
fn announced(options: &Options) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    options.media_ips.iter().map(|&ip| (ip, options.rooms.announced(SocketAddr::new(ip, 0)).ip()))
}

fn media_scope(options: &Options) -> Scope {
    announced(options).map(|(_, public)| Scope::of(public)).max().unwrap_or(Scope::Machine)
}

/// Where a name or address leads; `None` if that is not known here.
fn host_scope(host: &str) -> Option<Scope> {
    if host == "localhost" || host.ends_with(".localhost") {
        return Some(Scope::Machine); // RFC 6761 §6.3
    }
    match host.parse() {
        Ok(ip) => Some(Scope::of(ip)),
        Err(_) => (host, 443).to_socket_addrs().ok()?.map(|address| Scope::of(address.ip())).max(),
    }
}

fn media(options: &Options) -> Finding {
    const CHECK: &str = "media-reach";
    let of_page = options.public_url.as_ref().and_then(|url| host_scope(url.host()));
    let (bound, public) = announced(options).max_by_key(|(_, public)| Scope::of(*public)).unzip();
    let (Some(bound), Some(public)) = (bound, public) else { return Finding::ok(CHECK, "no media address") };
    match Scope::of(public) {
        Scope::Machine => Finding::fail(
            CHECK,
            format!(
                "browsers elsewhere may get the page, and media comes to {public} alone: they join and see nothing"
            ),
            "media-ip with the address under which clients reach this machine",
        ),
        Scope::Network if of_page == Some(Scope::Internet) => Finding::fail(
            CHECK,
            format!(
                "the page is on the Internet, and media comes to {public}, which is reached from its own network alone"
            ),
            format!("announce = [\"{bound}=PUBLIC\"] with the public address, if a NAT translates it to {bound}"),
        ),
        Scope::Network if of_page == Some(Scope::Network) => {
            Finding::ok(CHECK, format!("{public} and the page are reached from their own network"))
        }
        Scope::Network => Finding::warn(
            CHECK,
            format!("{public} is reached from its own network alone: nobody on the Internet gets media"),
            format!("announce = [\"{bound}=PUBLIC\"] if a NAT translates a public address to {bound}; else nothing"),
        ),
        Scope::Internet => Finding::ok(CHECK, format!("clients are told {public}")),
    }
}

/// Whether the page is a secure context (W3C Secure Contexts §3.1): without that a browser has no cameras for it.
fn page(options: &Options) -> Finding {
    const CHECK: &str = "secure-context";
    const MEND: &str =
        "tls-cert and tls-key; or listen = \"127.0.0.1:8080\", a TLS proxy in front and public-url = \"https://NAME\"";
    let listen = options.listen;
    match &options.public_url {
        Some(url) if url.is_secure() => Finding::ok(CHECK, format!("people come by {url}")),
        Some(url) => Finding::fail(
            CHECK,
            format!("people come by {url}: browsers give no camera and no microphone to a page without https"),
            MEND,
        ),
        None if listen.ip().is_loopback() => Finding::warn(
            CHECK,
            format!(
                "pages are served at {listen}, to this machine alone, and no public-url says which proxy passes them on"
            ),
            "public-url = \"https://NAME\" of a TLS proxy on this machine; or listen = \"0.0.0.0:443\", tls-cert and tls-key",
        ),
        None if options.tls().is_some() => Finding::ok(CHECK, format!("https at {listen}")),
        None => Finding::fail(
            CHECK,
            format!(
                "plain HTTP at {listen}: browsers elsewhere give no camera and no microphone to a page without https"
            ),
            MEND,
        ),
    }
}

fn open_beside_proxy(options: &Options) -> Option<Finding> {
    let is_behind_proxy = options.tls().is_none() && options.public_url.as_ref().is_some_and(PublicUrl::is_secure);
    let listen = options.listen;
    (is_behind_proxy && !listen.ip().is_loopback()).then(|| {
        Finding::warn(
            "plain-http",
            format!("plain HTTP at {listen} is open beside the proxy: tokens can be read on the way"),
            format!(
                "listen = \"127.0.0.1:{}\" for a proxy on this machine; else a firewall that lets in the proxy alone",
                listen.port()
            ),
        )
    })
}

fn stun(options: &Options) -> Finding {
    const CHECK: &str = "stun-reach";
    let told = match options.stun().ip() {
        ip if ip.is_unspecified() => options.public_ip().unwrap_or(ip),
        _ => options.rooms.announced(options.stun()).ip(),
    };
    match Scope::of(told) < media_scope(options) {
        true => Finding::warn(
            CHECK,
            format!(
                "clients are told stun:{told}, which is reached from {}: theirs do not answer there",
                Scope::of(told).text()
            ),
            "leave out stun, and it follows media-ip",
        ),
        false => Finding::ok(CHECK, format!("clients are told stun:{told}")),
    }
}

/// Whether the certificate has the name that people use. Whether it is good at all is looked at elsewhere.
fn certificate(options: &Options) -> Option<Finding> {
    const CHECK: &str = "certificate";
    let names = Names::read(&options.tls()?.certificate).ok()?;
    let all = names.dns.iter().cloned().chain(names.ips.iter().map(IpAddr::to_string)).collect::<Vec<_>>().join(", ");
    if let Some(url) = &options.public_url {
        return Some(match names.cover(url.host()) {
            true => Finding::ok(CHECK, format!("it is for {}", url.host())),
            false => Finding::fail(
                CHECK,
                format!("the certificate is for {all}, and people come by {url}: browsers refuse it"),
                format!("a certificate for {}, or the public-url that is in the certificate", url.host()),
            ),
        });
    }
    let address = reach::address(options.listen, options).ip();
    Some(match names.single() {
        Some(name) => Finding::ok(CHECK, format!("links have its name {name}, because no public-url says another")),
        None if names.cover(&address.to_string()) => Finding::ok(CHECK, format!("it is for {address}")),
        None => {
            let name = names.dns.iter().find(|name| !name.starts_with("*.")).map_or("NAME", String::as_str);
            Finding::warn(
                CHECK,
                format!("the certificate is for {all}, and links have the address {address}: browsers refuse it there"),
                format!("public-url = \"https://{name}\""),
            )
        }
    })
}

/// Asks by the public address, as a browser would. A NAT may not lead back inside, so this proves only that it works.
fn public_url(url: &PublicUrl) -> Finding {
    const CHECK: &str = "public-url";
    const MEND: &str =
        "look at the name in DNS, the proxy and the firewall; some NATs do not lead back inside: try from elsewhere";
    let answer =
        Server::at(url, None).and_then(|server| Ok(server.ask("GET", "/readyz", None, None, ANSWER_TIMEOUT)?));
    match answer {
        Ok(answer) if answer.status == 200 => Finding::ok(CHECK, format!("{url}/readyz says 200")),
        Ok(answer) => Finding::warn(CHECK, format!("{url}/readyz says {}", answer.status), MEND),
        Err(error) => Finding::warn(CHECK, format!("{url}/readyz: {error}"), MEND),
    }
}

/// What must come in.
struct Needed(Vec<(&'static str, u16, u16)>);

impl Needed {
    fn of(options: &Options) -> Needed {
        let base = options.media_port;
        let last = base.saturating_add(u16::try_from(options.workers.saturating_sub(1)).unwrap_or(u16::MAX));
        let stun = options.stun().port();
        let page = match &options.public_url {
            Some(url) => url.port(),
            None if options.listen.ip().is_loopback() => 443,
            None => options.listen.port(),
        };
        let mut needed = vec![("udp", base, last), ("udp", stun, stun), ("tcp", page, page)];
        if options.ice_tcp {
            needed.push(("tcp", base, last));
        }
        Needed(needed)
    }

    fn text(&self) -> String {
        let text = |(protocol, first, last): &(&str, u16, u16)| match first == last {
            true => format!("{} {first}", protocol.to_uppercase()),
            false => format!("{} {first} to {last}", protocol.to_uppercase()),
        };
        self.0.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

/// What can be known of a firewall on this machine; of one in front of it nothing can be.
fn firewall(root: &Path, needed: &Needed) -> Finding {
    const CHECK: &str = "firewall";
    let text = needed.text();
    let is_ufw_on = fs::read_to_string(root.join("etc/ufw/ufw.conf"))
        .is_ok_and(|conf| conf.lines().any(|line| line.trim().eq_ignore_ascii_case("enabled=yes")));
    if is_ufw_on {
        return match fs::read_to_string(root.join("etc/ufw/user.rules")) {
            Ok(rules) => {
                let missing: Vec<_> = needed.0.iter().filter(|needed| !lets_in(&rules, **needed)).collect();
                let allow = |(protocol, first, last): &&(&str, u16, u16)| match first == last {
                    true => format!("ufw allow {first}/{protocol}"),
                    false => format!("ufw allow {first}:{last}/{protocol}"),
                };
                match missing.is_empty() {
                    true => Finding::ok(CHECK, format!("ufw lets in {text}; so must what is in front of this machine")),
                    false => Finding::warn(
                        CHECK,
                        format!("ufw is on, and does not let in all of {text} from everywhere"),
                        missing.iter().map(allow).collect::<Vec<_>>().join(" && "),
                    ),
                }
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Finding::ok(CHECK, format!("ufw is on, and shows its rules to root alone: it must let in {text}"))
            }
            Err(_) => Finding::ok(CHECK, format!("ufw is on: it must let in {text}")),
        };
    }
    match root.join("run/firewalld").exists() || root.join("run/firewalld.pid").exists() {
        true => Finding::ok(CHECK, format!("firewalld runs: it must let in {text} (firewall-cmd --add-port=PORT/udp)")),
        false => Finding::ok(
            CHECK,
            format!("let in {text}, here and in what is in front of this machine (a cloud's console)"),
        ),
    }
}

/// Whether a rule of ufw (`### tuple ### ACTION PROTOCOL PORTS TO FROM-PORTS FROM DIRECTION`) lets these ports in from
/// everywhere.
fn lets_in(rules: &str, (protocol, first, last): (&str, u16, u16)) -> bool {
    let tuples = rules.lines().filter_map(|line| line.strip_prefix("### tuple ### "));
    tuples.map(|tuple| tuple.split_whitespace().collect::<Vec<_>>()).any(|tuple| {
        let [action, of, ports, _, "any", "0.0.0.0/0" | "::/0", direction, ..] = tuple[..] else { return false };
        let is_in = ports == "any"
            || ports.split(',').any(|range| {
                let (from, to) = range.split_once(':').unwrap_or((range, range));
                from.parse().is_ok_and(|from: u16| from <= first) && to.parse().is_ok_and(|to: u16| last <= to)
            });
        (action.starts_with("allow") || action.starts_with("limit"))
            && [protocol, "any"].contains(&of)
            && is_in
            && direction.starts_with("in")
    })
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    /// Options of a settings file in which each line is `KEY=VALUE`.
    fn options(lines: &[&str]) -> Options {
        crate::options::from_lines(lines).unwrap()
    }

    fn levels(lines: &[&str]) -> Vec<(&'static str, Level)> {
        let mut findings = look(&options(lines), false);
        findings.retain(|finding| finding.check != "firewall");
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    const PUBLIC: &str = "media-ip=203.0.113.7";

    #[test]
    fn an_edge_for_this_machine_alone_is_fine() {
        assert_eq!(levels(&[]), [("reach", Level::Ok)]);
        assert_eq!(levels(&["public-url=http://localhost:8080"]), [("reach", Level::Ok)]);
    }

    #[test]
    fn what_a_browser_elsewhere_would_not_get_fails() {
        use Level::{Fail, Ok, Warn};
        // As it was reported: all of it "ok" once, and nobody elsewhere could use it.
        assert_eq!(
            levels(&[PUBLIC, "listen=0.0.0.0:8080", "stun=127.0.0.1:3478"]),
            [("media-reach", Ok), ("secure-context", Fail), ("stun-reach", Warn)]
        );
        assert_eq!(levels(&["listen=0.0.0.0:8080"])[..2], [("media-reach", Fail), ("secure-context", Fail)]);
        assert_eq!(
            levels(&[PUBLIC, "public-url=https://198.51.100.9"]),
            [("media-reach", Ok), ("secure-context", Ok), ("stun-reach", Ok)]
        );
        assert_eq!(levels(&[PUBLIC])[1], ("secure-context", Warn), "loopback alone, and no word of a proxy");
        assert_eq!(levels(&[PUBLIC, "public-url=http://198.51.100.9"])[1], ("secure-context", Fail));
        assert_eq!(
            levels(&[PUBLIC, "listen=0.0.0.0:8080", "public-url=https://198.51.100.9"])[2],
            ("plain-http", Warn)
        );
    }

    #[test]
    fn a_private_address_without_announce_is_judged_by_who_comes() {
        let private = "media-ip=10.0.0.5";
        assert_eq!(levels(&[private])[0], ("media-reach", Level::Warn));
        assert_eq!(levels(&[private, "public-url=https://198.51.100.9"])[0], ("media-reach", Level::Fail));
        assert_eq!(levels(&[private, "public-url=https://10.0.0.5"])[0], ("media-reach", Level::Ok));
        let nat = [private, "announce=10.0.0.5=203.0.113.7", "public-url=https://198.51.100.9"];
        assert_eq!(levels(&nat)[0], ("media-reach", Level::Ok));
        assert_eq!(levels(&nat)[2], ("stun-reach", Level::Ok), "STUN follows, and so does its public address");
        let mend = look(&options(&[private, "public-url=https://198.51.100.9"]), false).swap_remove(0).mend.unwrap();
        assert!(mend.contains("announce = [\"10.0.0.5=PUBLIC\"]"), "{mend}");
    }

    #[test]
    fn addresses_have_scopes() {
        let scope = |ip: &str| Scope::of(ip.parse().unwrap());
        for (ip, expected) in [
            ("127.0.0.2", Scope::Machine),
            ("::1", Scope::Machine),
            ("::ffff:127.0.0.1", Scope::Machine),
            ("192.168.1.2", Scope::Network),
            ("100.64.0.1", Scope::Network),
            ("100.128.0.1", Scope::Internet),
            ("fd00::1", Scope::Network),
            ("fe80::1", Scope::Network),
            ("203.0.113.7", Scope::Internet),
            ("2001:db8::1", Scope::Internet),
        ] {
            assert_eq!(scope(ip), expected, "{ip}");
        }
    }

    #[test]
    fn a_certificate_is_for_the_name_that_people_use() {
        let folder = std::env::temp_dir().join(format!("uprtc-doctor-names-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("cert.pem");
        let pair = [format!("tls-cert={}", file.display()), format!("tls-key={}", file.display())];
        let judged = |names: &[&str], more: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            fs::write(&file, rcgen::generate_simple_self_signed(names).unwrap().cert.pem()).unwrap();
            let base = [PUBLIC, "listen=0.0.0.0:443", &pair[0], &pair[1]];
            let lines: Vec<&str> = base.iter().copied().chain(more.iter().copied()).collect();
            certificate(&options(&lines)).unwrap()
        };
        let url = ["public-url=https://call.example"];
        assert_eq!(judged(&["call.example"], &url).level, Level::Ok);
        assert_eq!(judged(&["*.example"], &url).level, Level::Ok);
        assert_eq!(judged(&["*.example"], &["public-url=https://a.call.example"]).level, Level::Fail);
        assert_eq!(judged(&["other.example"], &url).level, Level::Fail);
        assert_eq!(judged(&["call.example"], &[]).level, Level::Ok);
        assert_eq!(judged(&["203.0.113.7"], &[]).level, Level::Ok);
        let two = judged(&["call.example", "www.call.example"], &[]);
        assert_eq!((two.level, two.mend.as_deref()), (Level::Warn, Some("public-url = \"https://call.example\"")));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn ufw_is_read_where_it_may_be() {
        let root = std::env::temp_dir().join(format!("uprtc-doctor-ufw-{}", std::process::id()));
        fs::create_dir_all(root.join("etc/ufw")).unwrap();
        let needed = Needed::of(&options(&[PUBLIC, "workers=2", "public-url=https://198.51.100.9"]));
        let finding = |conf: &str, rules: &str| {
            fs::write(root.join("etc/ufw/ufw.conf"), conf).unwrap();
            fs::write(root.join("etc/ufw/user.rules"), rules).unwrap();
            firewall(&root, &needed)
        };
        let off = finding("ENABLED=no\n", "");
        assert!(
            off.level == Level::Ok && off.finding.contains("UDP 40000 to 40001, UDP 3478, TCP 443, TCP 40000 to 40001"),
            "{off}"
        );
        let tuple = |text: &str| format!("*filter\n### tuple ### {text} 0.0.0.0/0 any 0.0.0.0/0 in\n-A x\n");
        let media = tuple("allow udp 40000:40010");
        let on = finding("# x\nENABLED=yes\n", &media);
        let mend = "ufw allow 3478/udp && ufw allow 443/tcp && ufw allow 40000:40001/tcp";
        assert_eq!((on.level, on.mend.as_deref()), (Level::Warn, Some(mend)));
        let over_tcp = tuple("allow tcp 40000:40001");
        let all = format!("{media}{over_tcp}{}{}", tuple("allow any 3478"), tuple("limit tcp 80,443"));
        assert_eq!(finding("ENABLED=yes\n", &all).level, Level::Ok);
        let some = all.replace("any 0.0.0.0/0 in", "any 198.51.100.0/24 in");
        assert_eq!(finding("ENABLED=yes\n", &some).level, Level::Warn, "not from everywhere");
        fs::remove_dir_all(&root).unwrap();
    }
}
