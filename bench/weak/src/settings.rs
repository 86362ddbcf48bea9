//! What one direction of a link is like, and the words in which it is changed: `rate=500k queue=300ms delay=25ms loss=2%x10`.

/// A change of some settings; the others remain.
pub type Change = Vec<Setting>;

/// How packets are lost after they have passed the queue.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Loss {
    /// Each packet with this probability.
    Random(f64),
    /// A Gilbert model: this share of all packets, in bursts of this mean length (geometrically distributed).
    Burst(f64, f64),
}

/// One direction of a link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// Capacity in bits of IP packets per second; None has no limit and no queue.
    pub rate_bps: Option<u64>,
    /// A packet that would wait longer than this is dropped (drop-tail), microseconds.
    pub queue_us: u64,
    /// Propagation delay, microseconds.
    pub delay_us: u64,
    /// More delay, from 0 to this, evenly distributed, microseconds. It keeps the order.
    pub jitter_us: u64,
    /// What is lost.
    pub loss: Loss,
    /// Probability that a packet is held back, so that later ones overtake it.
    pub reorder: f64,
    /// For how long it is held back, microseconds.
    pub reorder_us: u64,
    /// Whether UDP passes at all; a firewall may let TCP through alone.
    pub has_udp: bool,
    /// The one port to or from which TCP passes; None: all do.
    pub tcp_port: Option<u16>,
}

impl Default for Settings {
    /// A link that neither limits, delays nor loses; its queue, once it has a rate, is that of the cases of RFC 8867 §4.
    fn default() -> Settings {
        Settings {
            rate_bps: None,
            queue_us: 300_000,
            delay_us: 0,
            jitter_us: 0,
            loss: Loss::Random(0.0),
            reorder: 0.0,
            reorder_us: 20_000,
            has_udp: true,
            tcp_port: None,
        }
    }
}

/// One word of a change.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Setting {
    /// `rate=500k`, `rate=2.5M`, `rate=none`
    Rate(Option<u64>),
    /// `queue=300ms`
    Queue(u64),
    /// `delay=25ms`
    Delay(u64),
    /// `jitter=5ms`
    Jitter(u64),
    /// `loss=10%`, in bursts of 10: `loss=2%x10`
    Loss(Loss),
    /// `reorder=1%`, held back for 40 ms: `reorder=1%x40ms`
    Reorder(f64, Option<u64>),
    /// `udp=pass`, `udp=drop`
    Udp(bool),
    /// `tcp=pass`, `tcp=443`: only what is to or from this port
    Tcp(Option<u16>),
}

impl Settings {
    /// With these changes.
    #[must_use]
    pub fn with(mut self, change: &[Setting]) -> Settings {
        for setting in change {
            match *setting {
                Setting::Rate(rate_bps) => self.rate_bps = rate_bps,
                Setting::Queue(us) => self.queue_us = us,
                Setting::Delay(us) => self.delay_us = us,
                Setting::Jitter(us) => self.jitter_us = us,
                Setting::Loss(loss) => self.loss = loss,
                Setting::Udp(passes) => self.has_udp = passes,
                Setting::Tcp(port) => self.tcp_port = port,
                Setting::Reorder(share, us) => {
                    self.reorder = share;
                    self.reorder_us = us.unwrap_or(self.reorder_us);
                }
            }
        }
        self
    }
}

/// Parses one word of a change.
pub fn parse_setting(word: &str) -> Result<Setting, String> {
    let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not name=value"))?;
    let setting = match name {
        "rate" if value == "none" => Some(Setting::Rate(None)),
        "rate" => parse_rate(value).map(|rate| Setting::Rate(Some(rate))),
        "queue" => parse_us(value).map(Setting::Queue),
        "delay" => parse_us(value).map(Setting::Delay),
        "jitter" => parse_us(value).map(Setting::Jitter),
        "loss" => parse_loss(value).map(Setting::Loss),
        "udp" => ["drop", "pass"].iter().position(|&word| word == value).map(|at| Setting::Udp(at == 1)),
        "tcp" if value == "pass" => Some(Setting::Tcp(None)),
        "tcp" => value.parse().ok().map(|port| Setting::Tcp(Some(port))),
        "reorder" => match value.split_once('x') {
            Some((share, time)) => parse_share(share).zip(parse_us(time)).map(|(s, us)| Setting::Reorder(s, Some(us))),
            None => parse_share(value).map(|share| Setting::Reorder(share, None)),
        },
        _ => return Err(format!("there is no setting {name:?}")),
    };
    setting.ok_or_else(|| format!("{name} cannot be {value:?}"))
}

fn parse_number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

/// Bits per second, at least 1000: with less, a packet takes longer than any queue.
fn parse_rate(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix('M') {
        Some(number) => (number, 1e6),
        None => (text.strip_suffix('k')?, 1e3),
    };
    let rate = parse_number(number)? * unit;
    (1e3..=1e10).contains(&rate).then_some(rate as u64)
}

/// Milliseconds, up to a minute.
fn parse_us(text: &str) -> Option<u64> {
    let ms = parse_number(text.strip_suffix("ms")?)?;
    (ms <= 60_000.0).then_some((ms * 1e3) as u64)
}

fn parse_share(text: &str) -> Option<f64> {
    let share = parse_number(text.strip_suffix('%')?)? / 100.0;
    (share <= 1.0).then_some(share)
}

fn parse_loss(text: &str) -> Option<Loss> {
    match text.split_once('x') {
        None => parse_share(text).map(Loss::Random),
        Some((share, length)) => {
            let (share, length) = (parse_share(share)?, parse_number(length)?);
            (share < 1.0 && length >= 1.0).then_some(Loss::Burst(share, length))
        }
    }
}
