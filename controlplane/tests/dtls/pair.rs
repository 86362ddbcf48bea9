//! Two ends and a network between them, in virtual time.

use std::time::{Duration, Instant};

use controlplane::dtls::{Connected, Dtls, DtlsError, DtlsEvent, Identity};

/// One way through the network.
pub(crate) const DELAY: Duration = Duration::from_millis(10);

/// Which way a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

/// One end and what it has said.
pub(crate) struct End {
    pub(crate) dtls: Dtls,
    pub(crate) connected: Option<Box<Connected>>,
    pub(crate) failed: Option<DtlsError>,
    pub(crate) is_closed: bool,
}

impl End {
    pub(crate) fn new(dtls: Dtls) -> Self {
        Self { dtls, connected: None, failed: None, is_closed: false }
    }

    /// Takes what the end wants to say, checking that it says it once and in order.
    pub(crate) fn drain_events(&mut self) {
        while let Some(event) = self.dtls.poll_event() {
            assert!(self.failed.is_none() && !self.is_closed, "nothing follows the end: {event:?}");
            match event {
                DtlsEvent::Connected(connected) => {
                    assert!(self.connected.replace(connected).is_none(), "connected twice")
                }
                DtlsEvent::Failed(error) => self.failed = Some(error),
                DtlsEvent::Closed => self.is_closed = true,
            }
        }
    }
}

/// What becomes of a datagram: how long each copy of it takes.
pub(crate) type Fate = Vec<Duration>;

/// Arrives once.
pub(crate) fn arrives() -> Fate {
    vec![DELAY]
}

/// Never arrives.
pub(crate) fn is_lost() -> Fate {
    vec![]
}

/// The network, which does to each datagram what `decide` says.
pub(crate) struct Pair<F> {
    pub(crate) now: Instant,
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) client_identity: Identity,
    pub(crate) server_identity: Identity,
    in_flight: Vec<(Instant, Way, Vec<u8>)>,
    /// Called with the way of a datagram, its number on that way from 0, and its bytes, which it may spoil.
    decide: F,
    /// Datagrams sent each way, by [`Way`].
    pub(crate) sent: [usize; 2],
}

impl<F: FnMut(Way, usize, &mut Vec<u8>) -> Fate> Pair<F> {
    pub(crate) fn new(decide: F) -> Self {
        let [client, server] = [(); 2].map(|()| Identity::generate().unwrap());
        Self::with_identities(client, server, decide)
    }

    pub(crate) fn with_identities(client_identity: Identity, server_identity: Identity, decide: F) -> Self {
        let now = Instant::now();
        Self {
            now,
            client: End::new(Dtls::connect(&client_identity, now).unwrap()),
            server: End::new(Dtls::accept(&server_identity, now).unwrap()),
            client_identity,
            server_identity,
            in_flight: Vec::new(),
            decide,
            sent: [0; 2],
        }
    }

    /// Puts into the network what both ends have to send.
    pub(crate) fn collect(&mut self) {
        for way in [Way::ToServer, Way::ToClient] {
            let from = match way {
                Way::ToServer => &mut self.client,
                Way::ToClient => &mut self.server,
            };
            from.drain_events();
            while let Some(mut datagram) = from.dtls.poll_transmit() {
                assert!(datagram.len() <= 1200, "a datagram of {} bytes", datagram.len());
                let number = self.sent[way as usize];
                self.sent[way as usize] += 1;
                for delay in (self.decide)(way, number, &mut datagram) {
                    self.in_flight.push((self.now + delay, way, datagram.clone()));
                }
            }
        }
    }

    /// Moves to the next thing that happens, if it happens by `until`.
    pub(crate) fn step(&mut self, until: Instant) -> bool {
        self.collect();
        let timers = [self.client.dtls.poll_timeout(), self.server.dtls.poll_timeout()];
        let arrivals = self.in_flight.iter().map(|(at, ..)| *at);
        let Some(next) = arrivals.chain(timers.into_iter().flatten()).min().filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        // Of equal times the one sent first: `min_by_key` keeps the first.
        let first = self.in_flight.iter().enumerate().min_by_key(|(_, (at, ..))| *at);
        if let Some(first) = first.filter(|(_, (at, ..))| *at <= now).map(|(index, _)| index) {
            let (_, way, datagram) = self.in_flight.remove(first);
            match way {
                Way::ToServer => self.server.dtls.handle(now, &datagram),
                Way::ToClient => self.client.dtls.handle(now, &datagram),
            };
        } else {
            for end in [&mut self.client, &mut self.server] {
                if end.dtls.poll_timeout().is_some_and(|at| at <= now) {
                    end.dtls.handle_timeout(now);
                }
            }
        }
        self.collect();
        true
    }

    /// Runs for `time` of virtual time.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0;
        while self.step(until) {
            steps += 1;
            assert!(steps < 10_000, "time does not move on");
        }
    }

    /// Both ends are connected and agree on everything.
    pub(crate) fn assert_agree(&self) {
        let client = self.client.connected.as_ref().expect("the client is connected");
        let server = self.server.connected.as_ref().expect("the server is connected");
        assert_eq!(client.version, server.version);
        assert_eq!(client.profile, server.profile);
        assert!(client.tx == server.rx, "the server unprotects by what the client protects with");
        assert!(client.rx == server.tx, "the client unprotects by what the server protects with");
        assert!(client.tx != client.rx, "each direction has its own key");
        assert_eq!(client.peer_certificate_der, self.server_identity.certificate_der());
        assert_eq!(server.peer_certificate_der, self.client_identity.certificate_der());
    }
}
