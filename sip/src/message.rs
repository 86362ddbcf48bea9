//! SIP messages (RFC 3261 §7, §25) as bytes: parsed with limits, written again as they were. The way in begins here.
//!
//! A header's bytes are kept one to a character (Latin-1), so that what is echoed in a response is what was received,
//! whatever it is.

/// Longest message, bytes: what a datagram holds.
pub(crate) const MESSAGE_LEN_MAX: usize = 65_535;
/// Most header fields. A call through ten proxies has some thirty.
pub(crate) const HEADERS_MAX: usize = 128;

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    Request { method: String, uri: String },
    Response { status: u16, reason: String },
}

/// A request or response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) start: Start,
    /// Names in their long form, in the order of the message.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Why a message is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Malformed {
    /// Nobody can be answered.
    Drop,
    /// A request that is answered with this status and reason.
    Refuse(Box<Message>, u16, &'static str),
}

/// Compact forms (RFC 3261 §7.3.3, RFC 4028, RFC 3515, RFC 3891), and names that we look up.
const NAMES: &[(&str, &str)] = &[
    ("c", "Content-Type"),
    ("e", "Content-Encoding"),
    ("f", "From"),
    ("i", "Call-ID"),
    ("k", "Supported"),
    ("l", "Content-Length"),
    ("m", "Contact"),
    ("r", "Refer-To"),
    ("s", "Subject"),
    ("t", "To"),
    ("v", "Via"),
    ("x", "Session-Expires"),
];

/// Header fields that stand once (RFC 3261 §7.3.1).
const SINGLE: &[&str] = &["From", "To", "Call-ID", "CSeq", "Content-Length", "Max-Forwards", "Content-Type"];

impl Message {
    /// A request without header fields.
    pub(crate) fn request(method: &str, uri: &str) -> Message {
        let start = Start::Request { method: method.to_owned(), uri: uri.to_owned() };
        Message { start, headers: Vec::new(), body: Vec::new() }
    }

    /// A response to this request (RFC 3261 §8.2.6).
    pub(crate) fn response(request: &Message, status: u16, reason: &str) -> Message {
        let start = Start::Response { status, reason: reason.to_owned() };
        let copied = ["Via", "From", "To", "Call-ID", "CSeq"];
        let is_copied = |name: &str| copied.contains(&name) || (name == "Record-Route" && (101..300).contains(&status));
        let headers = request.headers.iter().filter(|(name, _)| is_copied(name)).cloned().collect();
        Message { start, headers, body: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Message {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn method(&self) -> &str {
        match &self.start {
            Start::Request { method, .. } => method,
            Start::Response { .. } => self.header("CSeq").and_then(|cseq| cseq.split_whitespace().nth(1)).unwrap_or(""),
        }
    }

    pub(crate) fn uri(&self) -> &str {
        match &self.start {
            Start::Request { uri, .. } => uri,
            Start::Response { .. } => "",
        }
    }

    /// 0 for a request.
    pub(crate) fn status(&self) -> u16 {
        match self.start {
            Start::Request { .. } => 0,
            Start::Response { status, .. } => status,
        }
    }

    /// The first header field of a name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All elements of the header fields of a name, which may be split by commas.
    pub(crate) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(|value| split_outside(value, ',')).map(str::trim).filter(|item| !item.is_empty())
    }

    /// Whether a list of tokens has this one.
    pub(crate) fn lists(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|item| item.eq_ignore_ascii_case(token))
    }

    pub(crate) fn call_id(&self) -> &str {
        self.header("Call-ID").unwrap_or("")
    }

    /// The number of CSeq; what was received has one.
    pub(crate) fn cseq(&self) -> u32 {
        self.header("CSeq").and_then(|cseq| cseq.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// The tag of `From` or `To`.
    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        param(self.header(name)?, "tag")
    }

    pub(crate) fn via(&self) -> Option<Via<'_>> {
        Via::parse(self.list("Via").next()?)
    }

    /// Replaces the first header field of a name.
    pub(crate) fn set(&mut self, name: &str, value: String) {
        match self.headers.iter_mut().find(|(own, _)| own == name) {
            Some((_, old)) => *old = value,
            None => self.headers.push((name.to_owned(), value)),
        }
    }

    /// As it goes out, with its Content-Length.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut text = match &self.start {
            Start::Request { method, uri } => format!("{method} {uri} SIP/2.0\r\n"),
            Start::Response { status, reason } => format!("SIP/2.0 {status} {reason}\r\n"),
        };
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "Content-Length") {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        let mut bytes: Vec<u8> = text.chars().map(|char| u8::try_from(char).unwrap_or(b'?')).collect();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads a whole datagram, or one message that [`framed`] has cut off.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(Malformed::Drop);
        }
        // RFC 3261 §7.5: empty lines before the first one.
        let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).ok_or(Malformed::Drop)?;
        let bytes = &bytes[start..];
        let (head, body) = match find(bytes, b"\r\n\r\n") {
            Some(at) => (&bytes[..at], &bytes[at + 4..]),
            None => (bytes.strip_suffix(b"\r\n").unwrap_or(bytes), &[][..]),
        };
        let mut lines = unfolded(head).into_iter();
        let first = lines.next().ok_or(Malformed::Drop)?;
        let (start, fault) = parse_start(&first)?;
        let mut message = Message { start, headers: Vec::new(), body: Vec::new() };
        let mut fault = fault;
        for line in lines {
            match parse_header(&line) {
                Some((name, value)) if message.headers.len() < HEADERS_MAX => message.headers.push((name, value)),
                Some(_) => fault = fault.or(Some((400, "Too Many Header Fields"))),
                None => fault = fault.or(Some((400, "Malformed Header Field"))),
            }
        }
        let fault = fault.or_else(|| message.take_body(body)).or_else(|| message.fault());
        match (fault, message.status()) {
            (None, _) => Ok(message),
            // ACK is never answered, and a response neither.
            (Some((status, reason)), 0) if message.method() != "ACK" && message.is_answerable() => {
                Err(Malformed::Refuse(Box::new(message), status, reason))
            }
            _ => Err(Malformed::Drop),
        }
    }

    /// Takes as many bytes as Content-Length says; RFC 3261 §18.3.
    fn take_body(&mut self, body: &[u8]) -> Option<(u16, &'static str)> {
        let len = match self.header("Content-Length").map(|value| number(value).map(|len| len as usize)) {
            None => body.len(),
            Some(Some(len)) if len <= body.len() => len,
            Some(_) => return Some((400, "Bad Content-Length")),
        };
        self.body = body[..len].to_vec();
        None
    }

    /// What is wrong with the header fields that each message has.
    fn fault(&self) -> Option<(u16, &'static str)> {
        let missing = ["Via", "From", "To", "Call-ID", "CSeq"].iter().any(|name| self.header(name).is_none());
        if missing {
            return Some((400, "Missing Header Field"));
        }
        if SINGLE.iter().any(|name| self.all(name).nth(1).is_some()) {
            return Some((400, "Repeated Header Field"));
        }
        let mut cseq = self.header("CSeq").unwrap_or("").split_whitespace();
        // RFC 3261 §8.1.1.5: less than 2**31.
        let is_number = cseq.next().and_then(number).is_some_and(|number| number < 1 << 31);
        let method = cseq.next();
        if !is_number || method.is_none() || (self.status() == 0 && method != Some(self.method())) {
            return Some((400, "Bad CSeq"));
        }
        let has_holes = |one: &str| split_outside(one, ';').iter().any(|part| part.trim().is_empty());
        if self.via().is_none() || self.all("Via").any(|via| split_outside(via, ',').into_iter().any(has_holes)) {
            return Some((400, "Bad Via"));
        }
        if self.header("Max-Forwards").is_some_and(|hops| number(hops).is_none_or(|hops| hops > 255)) {
            return Some((400, "Bad Max-Forwards"));
        }
        let parties = ["From", "To"].map(|name| self.header(name).and_then(Address::parse));
        if parties.iter().any(Option::is_none) {
            return Some((400, "Bad From or To"));
        }
        if self.list("Contact").any(|contact| contact != "*" && Address::parse(contact).is_none()) {
            return Some((400, "Bad Contact"));
        }
        None
    }

    /// Whether a response finds its way, and its transaction.
    fn is_answerable(&self) -> bool {
        self.via().is_some() && ["From", "To", "Call-ID", "CSeq"].iter().all(|name| self.header(name).is_some())
    }
}

/// One message at the front of a stream (RFC 3261 §18.3), or how far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framed {
    /// So many bytes are one message.
    Whole(usize),
    /// So many bytes are a sign of life (RFC 5626 §3.5.1).
    Ping(usize),
    More,
    /// The stream cannot be read on.
    Lost,
}

/// Where the first message of a stream ends.
pub(crate) fn framed(bytes: &[u8]) -> Framed {
    if bytes.starts_with(b"\r\n\r\n") {
        return Framed::Ping(4);
    }
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
    let Some(head) = find(&bytes[start..], b"\r\n\r\n").map(|at| start + at) else {
        return if bytes.len() > MESSAGE_LEN_MAX { Framed::Lost } else { Framed::More };
    };
    let lines = unfolded(&bytes[start..head]);
    let lengths = lines.iter().filter_map(|line| parse_header(line)).filter(|(name, _)| name == "Content-Length");
    let mut lengths = lengths.map(|(_, value)| number(&value));
    // Without a length, or with two, nobody knows where the next message begins.
    let (Some(Some(len)), None) = (lengths.next(), lengths.next()) else { return Framed::Lost };
    match head + 4 + len as usize {
        end if end > MESSAGE_LEN_MAX => Framed::Lost,
        end if end > bytes.len() => Framed::More,
        end => Framed::Whole(end),
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// Lines with their continuations (RFC 3261 §7.3.1), one character for each byte.
fn unfolded(head: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in head.split(|&byte| byte == b'\n') {
        let line: String = line.strip_suffix(b"\r").unwrap_or(line).iter().copied().map(char::from).collect();
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line),
        }
    }
    lines
}

type Fault = Option<(u16, &'static str)>;

fn parse_start(line: &str) -> Result<(Start, Fault), Malformed> {
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let status = number(status).filter(|status| (100..700).contains(status)).ok_or(Malformed::Drop)?;
        return Ok((Start::Response { status: status as u16, reason: reason.to_owned() }, None));
    }
    let trimmed = line.trim_end();
    let has_tail = trimmed.len() < line.len();
    let (method, rest) = trimmed.split_once(' ').ok_or(Malformed::Drop)?;
    let (uri, version) = rest.rsplit_once(' ').ok_or(Malformed::Drop)?;
    if !is_token(method) || !version.starts_with("SIP/") {
        return Err(Malformed::Drop);
    }
    let fault = match () {
        () if has_tail => Some((400, "Bad Request Line")),
        () if version != "SIP/2.0" => Some((505, "Version Not Supported")),
        () if uri.is_empty() || uri.contains([' ', '\t', '<', '>', '"']) => Some((400, "Bad Request-URI")),
        () => None,
    };
    Ok((Start::Request { method: method.to_owned(), uri: uri.to_owned() }, fault))
}

fn parse_header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let name = name.trim_end();
    if !is_token(name) {
        return None;
    }
    let known = NAMES.iter().find(|(short, _)| name.eq_ignore_ascii_case(short)).map(|(_, long)| *long);
    let known = known.or_else(|| LOOKED_UP.iter().find(|own| name.eq_ignore_ascii_case(own)).copied());
    Some((known.unwrap_or(name).to_owned(), value.trim().to_owned()))
}

/// In the spelling in which we look them up.
const LOOKED_UP: &[&str] = &[
    "Via",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Contact",
    "Content-Length",
    "Content-Type",
    "Max-Forwards",
    "Record-Route",
    "Route",
    "Session-Expires",
    "Min-SE",
    "Supported",
    "Require",
];

/// `token` of RFC 3261 §25.1.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}

/// Digits alone.
pub(crate) fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Splits where the separator stands neither in quotes nor in angle brackets.
pub(crate) fn split_outside(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped, mut is_bracketed) = (false, false, false);
    for (at, char) in text.char_indices() {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '<' if !is_quoted => is_bracketed = true,
            '>' if !is_quoted => is_bracketed = false,
            _ if char == separator && !is_quoted && !is_bracketed => {
                parts.push(&text[from..at]);
                from = at + char.len_utf8();
            }
            _ => (),
        }
    }
    parts.push(&text[from..]);
    parts
}

/// The value of a parameter behind `;`, the empty string for one without a value.
pub(crate) fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    split_outside(value, ';').into_iter().skip(1).find_map(|param| {
        let (own, value) = param.split_once('=').unwrap_or((param, ""));
        own.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The topmost Via.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Via<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
    pub(crate) branch: &'a str,
    pub(crate) has_rport: bool,
}

impl<'a> Via<'a> {
    fn parse(text: &'a str) -> Option<Via<'a>> {
        let head = split_outside(text, ';').into_iter().next()?;
        // `SIP / 2.0 / UDP first.example.com: 4000` has spaces where it likes.
        let mut parts = head.splitn(3, '/');
        let (name, _version) = (parts.next()?.trim(), parts.next()?);
        let (_transport, sent_by) = parts.next()?.trim().split_once(char::is_whitespace)?;
        if !name.eq_ignore_ascii_case("SIP") {
            return None;
        }
        let (host, port) = host_port(sent_by.trim())?;
        let branch = param(text, "branch").unwrap_or("");
        Some(Via { host, port, branch, has_rport: param(text, "rport").is_some() })
    }
}

/// `host:port`, `[v6]:port`, with or without a port.
pub(crate) fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, rest) = text.split_at(end);
    let host = host.trim();
    let port = match rest.trim_start().strip_prefix(':') {
        None if rest.trim().is_empty() => None,
        None => return None,
        Some(port) => Some(number(port).and_then(|port| u16::try_from(port).ok())?),
    };
    (!host.is_empty() && !host.contains(char::is_whitespace)).then_some((host, port))
}

/// `"Name" <uri>;params` or `uri;params` (RFC 3261 §20.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address<'a> {
    pub(crate) name: &'a str,
    pub(crate) uri: &'a str,
}

impl<'a> Address<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Address<'a>> {
        let text = text.trim();
        let open = match text.strip_prefix('"') {
            // Behind the closing quote.
            Some(quoted) => {
                let mut is_escaped = false;
                let close = quoted.char_indices().find(|&(_, char)| {
                    let is_end = char == '"' && !is_escaped;
                    is_escaped = char == '\\' && !is_escaped;
                    is_end
                });
                let behind = close?.0 + 2;
                Some(behind + text[behind..].find('<')?)
            }
            None => text.find('<'),
        };
        let (name, uri) = match open {
            Some(open) => {
                let close = open + text[open..].find('>')?;
                (text[..open].trim(), &text[open + 1..close])
            }
            None => ("", text.split(';').next().unwrap_or("").trim()),
        };
        let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        // Without quotes a comma would begin another address.
        if quoted.is_none() && name.contains(',') {
            return None;
        }
        let name = quoted.unwrap_or(name);
        let has_scheme = uri.split_once(':').is_some_and(|(scheme, rest)| is_token(scheme) && !rest.is_empty());
        // It becomes the first line of a request of ours.
        let is_clean = !uri.contains(|char: char| char.is_whitespace() || char.is_control() || "<>\"".contains(char));
        (has_scheme && is_clean).then_some(Address { name, uri })
    }
}

/// The parts of a SIP URI that a gateway looks at; None for other schemes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Uri {
    /// Unescaped.
    pub(crate) user: String,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) is_tcp: bool,
}

impl Uri {
    pub(crate) fn parse(text: &str) -> Option<Uri> {
        let (scheme, rest) = text.split_once(':')?;
        if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
            return None;
        }
        // A user may have `;` and `?` in it, so look for the `@` first.
        let (user, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let user = user.split_once(':').map_or(user, |(user, _password)| user);
        let end = rest.find([';', '?']).unwrap_or(rest.len());
        let (host, port) = host_port(&rest[..end])?;
        let is_tcp = param(rest, "transport").is_some_and(|transport| transport.eq_ignore_ascii_case("tcp"));
        Some(Uri { user: unescape(user), host: host.trim_matches(['[', ']']).to_owned(), port, is_tcp })
    }
}

/// Whether it is a number, or another user, that a trunk can be asked for.
pub(crate) fn is_dialable(number: &str) -> bool {
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+*#-._".contains(&byte))
}

/// `%41` is `A`. What does not decode stays as it is.
pub(crate) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex =
            text.get(at + 1..at + 3).filter(|hex| bytes[at] == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (out.push(byte), at += 3).1,
            None => (out.push(bytes[at]), at += 1).1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Text whose characters are bytes, as what the bytes say.
pub(crate) fn shown(text: &str) -> String {
    let bytes: Vec<u8> = text.chars().map(|char| u8::try_from(char).unwrap_or(b'?')).collect();
    String::from_utf8_lossy(&bytes).chars().filter(|char| !char.is_control()).take(64).collect()
}
