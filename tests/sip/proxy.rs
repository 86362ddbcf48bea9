//! A SIP proxy and registrar between telephones and the gateway: kamailio, which asks who calls by it for a password, and
//! stays in between by Record-Route.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::harness::{Folder, plane, until};
use super::measure;
use super::phone::Phone;
use super::{Scene, free_address, require, runtime, talk};

/// The telephone's address is not the proxy's, so that RTP and SIP of a call have two other ends.
const SIPP: &str = "127.0.0.2";

/// It gives numbers to the gateway and names to one telephone, and writes down what it passes on.
const ROUTES: &str = r#"
request_route {
    if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
    if (is_method("CANCEL")) { if (t_check_trans()) { xlog("L_ERR", "passes on $rm\n"); t_relay(); } exit; }
    if (has_totag()) {
        if (loose_route()) { handle_ruri_alias(); xlog("L_ERR", "passes on $rm in a call\n"); t_relay(); exit; }
        if (is_method("ACK")) { if (t_check_trans()) { t_relay(); } exit; }
        sl_send_reply("404", "Not Here");
        exit;
    }
    t_check_trans();
    if (is_method("REGISTER")) {
        if (!pv_www_authenticate("pbx.example", "secret", "0")) { www_challenge("pbx.example", "1"); exit; }
        # So that calls go back by the connection.
        fix_nated_register();
        save("location");
        xlog("L_ERR", "registers $fU by $pr\n");
        exit;
    }
    if ($rU =~ "^2[0-9]+$") {
        # To where the gateway has registered from, as providers do.
        $avp(dialled) = $rU;
        $ru = "sip:gw@pbx.example";
        if (!lookup("location")) { sl_send_reply("404", "Not Registered"); exit; }
        $rU = $(avp(dialled){s.substr,1,0});
        t_on_reply("BACK");
    } else if ($rU =~ "^[0-9]+$") {
        $du = "GATEWAY";
    } else {
        if (!pv_proxy_authenticate("pbx.example", "secret", "0")) { proxy_challenge("pbx.example", "1"); exit; }
        consume_credentials();
        $du = "PHONE";
    }
    record_route();
    xlog("L_ERR", "passes on $rm\n");
    t_relay();
}
onreply_route[BACK] { set_contact_alias(); }
"#;

/// A certificate and its key, for one name.
struct Pair {
    folder: Folder,
}

impl Pair {
    fn new(name: &str) -> Pair {
        let pair = Pair { folder: Folder::new() };
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(pair.certificate(), made.cert.pem()).unwrap();
        fs::write(pair.key(), made.key_pair.serialize_pem()).unwrap();
        pair
    }

    fn certificate(&self) -> PathBuf {
        self.folder.0.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.0.join("key.pem")
    }
}

/// The TLS of both ends: each shows a certificate, and trusts that of the other.
struct Pairs {
    proxy: Pair,
    gateway: Pair,
}

const MODULES: [&str; 12] =
    ["tm", "sl", "rr", "pv", "maxfwd", "xlog", "textops", "siputils", "usrloc", "registrar", "auth", "nathelper"];

struct Proxy {
    child: Child,
    folder: Folder,
    address: SocketAddr,
}

impl Proxy {
    /// None where there is no kamailio.
    fn is_there(what: &str) -> bool {
        // On Debian it is not in the PATH of users.
        let found = Proxy::command().arg("-v").stdin(Stdio::null()).output();
        if let Err(error) = &found {
            require::left_out("telephones", what, format!("kamailio: {error}"));
        }
        found.is_ok()
    }

    fn command() -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("kamailio");
        command.env("PATH", format!("{path}:/usr/sbin"));
        command
    }

    /// It takes TLS at the next port, if there are certificates.
    fn start(address: SocketAddr, gateway: &str, phone: SocketAddr, pairs: Option<&Pairs>) -> Proxy {
        let folder = Folder::new();
        let mut config = String::from("#!KAMAILIO\n");
        config += "debug=1\nlog_stderror=yes\nchildren=2\ntcp_children=1\nauto_aliases=no\ndisable_core_dump=yes\n";
        config += &format!("listen=udp:{address}\nlisten=tcp:{address}\n");
        if let Some(Pairs { proxy, gateway }) = pairs {
            config += &format!("enable_tls=yes\nlisten=tls:{}\nloadmodule \"tls.so\"\n", by_tls(address));
            let files = [("certificate", proxy.certificate()), ("private_key", proxy.key())];
            for (name, file) in files.into_iter().chain([("ca_list", gateway.certificate())]) {
                config += &format!("modparam(\"tls\", \"{name}\", \"{}\")\n", file.display());
            }
            // Without it it has TLS 1.0 alone.
            config += "modparam(\"tls\", \"tls_method\", \"TLSv1.2+\")\n";
            for name in ["verify_certificate", "require_certificate"] {
                config += &format!("modparam(\"tls\", \"{name}\", 1)\n");
            }
        }
        for module in MODULES {
            config += &format!("loadmodule \"{module}.so\"\n");
        }
        let phone = format!("sip:{phone}");
        config += &ROUTES.replace("GATEWAY", &format!("sip:{gateway}")).replace("PHONE", &phone);
        // Who registers by TLS is called by it.
        config += "modparam(\"nathelper\", \"received_avp\", \"$avp(received)\")\nmodparam(\"registrar\", \"received_avp\", \"$avp(received)\")\n";
        let file = folder.0.join("kamailio.cfg");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(folder.0.join("log")).unwrap();
        // In the foreground, with little memory, and with its sockets in the folder.
        let child = Proxy::command()
            .args(["-DD", "-E", "-m", "16", "-M", "4", "-Y", folder.path(), "-f"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Proxy { child, folder, address }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    /// How many requests it has passed on, of which it says this.
    fn passed(&self, what: &str) -> usize {
        let line = format!("passes on {what}");
        self.log().lines().filter(|own| own.ends_with(&line)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its processes end with the first one.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn by_tls(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1)
}

/// A gateway whose trunk is the proxy, and a telephone's address that the proxy knows.
fn scene(what: &str, lines: &str) -> Option<(Scene, Proxy, SocketAddr)> {
    if !Proxy::is_there(what) {
        return None;
    }
    let (address, phone) = (free_address(), free_address());
    let trunk = "domain = \"pbx.example\", user = \"gw\", password = \"secret\", register = true";
    // By its name, which each machine has.
    let address_by_name = format!("address = \"localhost:{}\"", address.port());
    let scene = Scene::new(what, &format!("{lines}\ntrunk = {{ {address_by_name}, {trunk} }}"))?;
    let proxy = Proxy::start(address, &scene.sip.to_string(), phone, None);
    scene.is_registered();
    Some((scene, proxy, phone))
}

impl Scene {
    fn is_registered(&self) {
        until("the registration at the proxy", || (self.metric("trunk_registered") == 1).then_some(()));
    }
}

/// With sound: a telephone calls by the proxy, and is called by it, where the gateway needs its password. Each end hangs up once.
#[test]
fn telephones_call_and_are_called_through_a_proxy() {
    let Some((mut scene, proxy, address)) = scene("telephones behind a proxy", "") else { return };
    runtime().block_on(async {
        let mut room = scene.peer("open", "speaker", true).await;
        let anna =
            Phone::call_to(&scene, "anna", &format!("sip:100@{}", proxy.address), 600, ";audio_codecs=pcmu/8000/1");
        let carl = Phone::await_call(&scene, "carl", address);
        scene.calls("carl");
        talk(&mut room, &[600.0, 440.0], 3, || scene.log() + &proxy.log()).await;
        // Anna's BYE goes to the gateway, and the gateway's to Carl.
        let heard = anna.hang_up();
        scene.has_calls(1);
        kill_process(Pid::from_child(&scene.gateway), Signal::TERM).unwrap();
        scene.gateway.wait().unwrap();
        until("the end at the telephone", || carl.log().contains("session closed").then_some(()));
        let carl = carl.hang_up();
        for (heard, other) in [(&heard, 440.0), (&carl, 600.0)] {
            let there = [850.0, other].map(|hertz| measure::amplitude(heard, 8000, hertz));
            assert!(there.iter().all(|there| *there > 0.1), "{other}: {there:?}");
        }
        let passed = ["INVITE", "ACK in a call", "BYE in a call"].map(|what| proxy.passed(what));
        assert_eq!(passed, [2, 2, 2], "{}", proxy.log());
    });
}

/// By UDP and TCP, with a re-INVITE and BYE by the route that the proxy has recorded; and CANCEL while the room is not reached yet.
#[test]
fn calls_are_put_on_hold_and_given_up_through_a_proxy() {
    let Some((scene, proxy, phone)) = scene("hold and CANCEL through a proxy", "") else { return };
    scene.sipp_at(proxy.address, "proxied", "100", &["-i", SIPP]);
    // Between two transports it records a route for each.
    scene.sipp_at(proxy.address, "proxied", "100", &["-i", SIPP, "-t", "t1"]);
    scene.has_calls(0);
    let passed = ["INVITE", "INVITE in a call", "ACK in a call", "BYE in a call"].map(|what| proxy.passed(what));
    assert_eq!(passed, [2, 2, 4, 2], "{}", proxy.log());
    let controlplane = plane(&scene.state.0, "controlplane").expect("its process");
    kill_process(controlplane, Signal::STOP).unwrap();
    scene.sipp_at(proxy.address, "proxied_cancel", "100", &["-i", SIPP]);
    kill_process(controlplane, Signal::CONT).unwrap();
    until("the end of what was given up", || scene.log().contains("cancelled").then_some(()));
    // And a call out that nobody takes: the gateway gives it up by the same way.
    let ringing = Phone::ring(&scene, "carl", phone);
    scene.calls("carl");
    until("the ringing", || ringing.log().contains("Incoming call").then_some(()));
    kill_process(Pid::from_child(&scene.gateway), Signal::TERM).unwrap();
    until("the telephone's end of ringing", || ringing.log().contains("session closed").then_some(()));
    assert_eq!(proxy.passed("CANCEL"), 2, "{}", proxy.log());
}

/// The trunk by TLS, where each end checks the certificate of the other. Calls come to the address for TLS, and by the connection that the gateway has opened; a call goes on when
/// that is lost, and after a restart of the proxy the gateway registers again.
#[test]
fn a_trunk_is_reached_by_tls() {
    if !Proxy::is_there("a trunk by TLS") {
        return;
    }
    let pairs = Pairs { proxy: Pair::new("pbx.example"), gateway: Pair::new("127.0.0.1") };
    let (address, phone, gateway) = (free_address(), free_address(), free_address());
    let file = |path: PathBuf| path.display().to_string();
    let lines = format!(
        "tls-listen = \"{gateway}\"\ntls-cert = \"{}\"\ntls-key = \"{}\"\ntrunk = {{ address = \"{}\", transport = \"tls\", \
         tls-ca = \"{}\", domain = \"pbx.example\", user = \"gw\", password = \"secret\", register = true }}",
        file(pairs.gateway.certificate()),
        file(pairs.gateway.key()),
        by_tls(address),
        file(pairs.proxy.certificate()),
    );
    let gateway = format!("{gateway};transport=tls");
    let proxy = Proxy::start(address, &gateway, phone, Some(&pairs));
    until("the proxy", || TcpStream::connect(by_tls(address)).ok());
    let Some(scene) = Scene::new("a trunk by TLS", &lines) else { return };
    scene.is_registered();
    assert!(proxy.log().contains("registers gw by tls"), "{}", proxy.log());
    scene.sipp_at(address, "proxied", "100", &["-i", SIPP]);
    scene.sipp_at(address, "proxied", "2100", &["-i", SIPP]);
    scene.has_calls(0);
    let passed = ["INVITE", "INVITE in a call", "ACK in a call", "BYE in a call"].map(|what| proxy.passed(what));
    assert_eq!(passed, [2, 2, 4, 2], "{}", proxy.log());
    let carl = Phone::await_call(&scene, "carl", phone);
    scene.calls("carl");
    carl.wait_for_media();
    drop(proxy);
    until("the loss of the connection", || (scene.metric("trunk_registered") == 0).then_some(()));
    scene.calls("nobody");
    until("its failure", || scene.log().contains("reason=\"refused\" status=503").then_some(()));
    let proxy = Proxy::start(address, &gateway, phone, Some(&pairs));
    scene.is_registered();
    // By the new connection, and in the old call.
    scene.has_calls(1);
    kill_process(Pid::from_child(&scene.gateway), Signal::TERM).unwrap();
    until("the end at the telephone", || carl.log().contains("session closed").then_some(()));
    assert_eq!(proxy.passed("BYE in a call"), 1, "{}", proxy.log());
}

/// Who is not the trunk is not spoken to, and its calls fail at once.
#[test]
fn a_trunk_with_another_name_is_not_spoken_to() {
    if !Proxy::is_there("a trunk with another name") {
        return;
    }
    let pairs = Pairs { proxy: Pair::new("other.example"), gateway: Pair::new("127.0.0.1") };
    let (address, phone) = (free_address(), free_address());
    let proxy = Proxy::start(address, "127.0.0.1:9", phone, Some(&pairs));
    until("the proxy", || TcpStream::connect(by_tls(address)).ok());
    let lines = format!(
        "trunk = {{ address = \"{}\", transport = \"tls\", tls-ca = \"{}\", domain = \"pbx.example\", user = \"gw\", password = \"secret\", register = true }}",
        by_tls(address),
        pairs.proxy.certificate().display(),
    );
    let Some(scene) = Scene::new("a trunk with another name", &lines) else { return };
    until("the failure", || (scene.metric("trunk_not_reached_total") == 1).then_some(()));
    assert!(scene.log().contains("trunk_not_reached") && scene.log().contains("not valid for name"), "{}", scene.log());
    assert!(!proxy.log().contains("registers"), "{}", proxy.log());
}
