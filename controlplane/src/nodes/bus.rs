//! The task that carries what the engine says to other nodes, and what they say to it. It waits for no bucket: what must move within a
//! second goes by publish and subscribe, which goes on while the servers elect a leader and take no writes.
//!
//! The engine is told that the cluster is there when the connection stands, this node's record stands in the bucket, and a mark that
//! this node sent to itself has come back: then its subscriptions stand, too. Whatever is lost on the way (a connection, a message that
//! found a queue full) is as if the cluster had been away for a moment: the engine says everything anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{oneshot, watch};
use tokio::task::unconstrained;
use tokio::time::{sleep, timeout};

use super::Nodes;
use super::claims::{self, Claims, Errand};
use super::cluster::{Heard, Line, Message, Standing, Stuck};
use super::message::{Heading, MESSAGE_LEN_MAX, MessageRefusal, NODE, SEAL, Window, key_of, of_node, of_room};
use super::seal::SealRefusal;
use super::settings::Settings;
use crate::bus::{Claim, News, Order, Sender};
use crate::driver::{Handle, OrderOutlet};

/// Rooms that are listened to at once.
const ROOMS_MAX: usize = 65_536;

/// How long a mark may take to come back. It takes part of a millisecond.
const MARK_TIMEOUT: Duration = Duration::from_secs(1);

/// Messages that are kept while a mark is awaited.
const HELD_MAX: usize = 4096;

/// After how many leases a node gives up what its earlier runs have claimed: by then this run has claimed what it goes on with.
const SWEEP_LEASES: u32 = 4;

/// How long it may take to give up claims at the end.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// What the task has done, for metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Whether the engine was told that the cluster is there.
    pub(super) is_connected: bool,
    pub(super) rooms: usize,
    pub(super) said: u64,
    pub(super) heard: u64,
    /// In the order of [`MessageRefusal::NAMES`].
    pub(super) refused: [u64; MessageRefusal::NAMES.len()],
    /// In the order of [`Dropped::NAMES`].
    pub(super) dropped: [u64; Dropped::NAMES.len()],
    pub(super) overruns: u64,
    /// `ours`, `theirs`, `unknown`.
    pub(super) claims: [u64; 3],
    /// What stands in the bucket of rooms and is not believed, in the order of [`SealRefusal::NAMES`].
    pub(super) claims_refused: [u64; SealRefusal::NAMES.len()],
}

/// Names of the answers to claims, in metrics.
pub(super) const CLAIM_NAMES: [&str; 3] = ["ours", "theirs", "unknown"];

/// Why an order was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dropped {
    /// The cluster was away.
    Away,
    /// It is longer than a message may be.
    TooLong,
    /// Too many were waiting.
    Full,
}

impl Dropped {
    pub(super) const NAMES: [&str; 3] = ["away", "too_long", "full"];
}

/// Where a message was heard: on a room's subject, or on this node's.
type Topic = Option<Arc<str>>;

/// A room that is listened to.
struct Listened {
    /// Ends the subscription when it is dropped; `None` until there is one.
    subscription: Option<oneshot::Sender<()>>,
}

/// How far the engine's cluster is there.
enum State {
    Away,
    /// A mark was sent, and this was heard meanwhile.
    Marking {
        mark: u64,
        sent_at: Instant,
        held: Vec<News>,
    },
    Connected,
}

/// See the module.
pub(super) struct Bus {
    nodes: Arc<Nodes>,
    settings: Settings,
    own: Sender,
    handle: Handle,
    orders: Option<OrderOutlet>,
    line: Option<Line>,
    standing: watch::Receiver<Standing>,
    heard: SelectAll<BoxStream<'static, (Topic, Message)>>,
    /// Whether this node's own subject is listened to.
    hears_itself: bool,
    /// By key.
    rooms: BTreeMap<Arc<str>, Listened>,
    claims: Option<Claims>,
    state: State,
    /// The connection that [`Bus::state`] is about.
    begun: Standing,
    /// Orders that the driver had dropped when it was last looked.
    dropped: u64,
    /// Something was lost since then.
    is_overrun: bool,
    /// What was heard of each node.
    window: Window,
    /// The roster that the engine knows.
    roster_told: u64,
}

/// What woke the task.
enum Woken {
    Stop,
    Line,
    Order(Option<Order>),
    Heard(Topic, Message),
    Claimed(String, Option<Claim>),
    Due,
}

impl Bus {
    pub(super) fn new(
        nodes: Arc<Nodes>,
        settings: Settings,
        own: Sender,
        handle: Handle,
        orders: Option<OrderOutlet>,
    ) -> Bus {
        Bus {
            nodes,
            settings,
            own,
            handle,
            orders,
            line: None,
            standing: watch::channel(Standing::default()).1,
            heard: SelectAll::new(),
            hears_itself: false,
            rooms: BTreeMap::new(),
            claims: None,
            state: State::Away,
            begun: Standing::default(),
            dropped: 0,
            is_overrun: false,
            window: Window::default(),
            roster_told: 0,
        }
    }

    /// Runs until `stop` is true. `lines` brings the connection when there is one.
    pub(super) async fn run(mut self, mut lines: watch::Receiver<Option<Line>>, mut stop: watch::Receiver<bool>) {
        loop {
            if self.line.is_none()
                && let Some(line) = lines.borrow_and_update().clone()
            {
                self.claims = Some(Claims::new(
                    claims::shelf(&line, &self.settings),
                    self.nodes.clone(),
                    SWEEP_LEASES * self.settings.lease,
                ));
                self.standing = line.standing();
                self.line = Some(line);
            }
            self.settle().await;
            let nodes = self.nodes.clone();
            let woken = tokio::select! {
                _ = stop.wait_for(|&is_asked| is_asked) => Woken::Stop,
                Ok(()) = lines.changed() => Woken::Line,
                () = nodes.changed.notified() => Woken::Line,
                woken = self.wait() => woken,
            };
            match woken {
                Woken::Stop => return self.end().await,
                Woken::Line | Woken::Due => {}
                Woken::Order(Some(order)) => self.take(order).await,
                Woken::Order(None) => self.orders = None,
                Woken::Heard(topic, message) => self.hear(topic, message).await,
                Woken::Claimed(room, claim) => self.claimed(room, claim).await,
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let due = match &self.state {
            State::Marking { sent_at, .. } => Some(*sent_at + MARK_TIMEOUT),
            State::Away | State::Connected => None,
        };
        let due = async {
            match due {
                Some(due) => sleep(due.saturating_duration_since(Instant::now())).await,
                None => std::future::pending().await,
            }
        };
        let order = async {
            match &mut self.orders {
                Some(orders) => orders.next().await,
                None => std::future::pending().await,
            }
        };
        let claimed = async {
            match &mut self.claims {
                Some(claims) => claims.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.standing.changed() => Woken::Line,
            order = order => Woken::Order(order),
            Some((topic, message)) = self.heard.next() => Woken::Heard(topic, message),
            (room, claim) = claimed => Woken::Claimed(room, claim),
            () = due => Woken::Due,
        }
    }

    /// Compares how the connection stands with what the engine was told of it.
    async fn settle(&mut self) {
        let standing = *self.standing.borrow_and_update();
        let (has_joined, is_taken) = {
            let inner = self.nodes.inner();
            (inner.has_joined(), inner.lease.taken_by().is_some())
        };
        let dropped = self.orders.as_ref().map_or(self.dropped, OrderOutlet::dropped);
        if dropped != self.dropped {
            let more = dropped - self.dropped;
            self.count(|counts| counts.dropped[Dropped::Full as usize] += more);
        }
        let is_overrun = std::mem::take(&mut self.is_overrun) || dropped != self.dropped;
        self.dropped = dropped;
        let is_over = is_overrun || is_taken || standing != self.begun || !standing.is_up;
        if is_over && !matches!(self.state, State::Away) {
            let was = std::mem::replace(&mut self.state, State::Away);
            if standing.overruns != self.begun.overruns || is_overrun {
                self.count(|counts| counts.overruns += 1);
                tracing::warn!(event = "cluster_overrun", "messages between nodes were lost; everything is said anew");
            }
            if let State::Connected = was {
                self.count(|counts| counts.is_connected = false);
                self.handle.cluster(News::Connected(false)).await;
            }
        }
        self.tell_roster().await;
        let is_late = match &self.state {
            State::Marking { sent_at, .. } => sent_at.elapsed() >= MARK_TIMEOUT,
            State::Away => standing.is_up && has_joined && !is_taken,
            State::Connected => false,
        };
        if is_late {
            self.begun = standing;
            let held = match std::mem::replace(&mut self.state, State::Away) {
                State::Marking { held, .. } => {
                    self.say_why_not();
                    held
                }
                State::Away | State::Connected => Vec::new(),
            };
            self.begin_window();
            self.state = State::Marking { mark: self.nodes.number(), sent_at: Instant::now(), held };
            let marked = self.subscribe().await.and(self.mark().await);
            self.is_overrun |= marked.is_err();
        }
    }

    /// Tells the engine who else is here, if that has changed.
    async fn tell_roster(&mut self) {
        let changed = {
            let inner = self.nodes.inner();
            let is_news = inner.roster.version() != self.roster_told;
            self.roster_told = inner.roster.version();
            is_news.then(|| inner.roster.others(&self.own.node))
        };
        if let Some(others) = changed {
            self.begin_window();
            self.handle.cluster(News::Nodes(others)).await;
        }
    }

    /// What the nodes that are here have said before, by their records, is not news: it is not believed if somebody says it again.
    fn begin_window(&mut self) {
        let counts = self.nodes.inner().roster.counts(&self.own.node);
        counts.iter().for_each(|(from, count)| self.window.begin(from, *count));
    }

    /// A mark does not come back: in the log, if the server said that it is not allowed.
    fn say_why_not(&self) {
        if let Some(denied) = self.line.as_ref().and_then(Line::denied) {
            let text =
                format!("this node may not speak to the others: {denied}; docs/OPERATING.md lists the permissions");
            if self.nodes.inner().problem.replace(text.clone()).as_ref() != Some(&text) {
                tracing::warn!(event = "cluster_lost", "{text}");
            }
        }
    }

    /// Subscribes to what is not subscribed to yet. The library repeats it after each connection.
    async fn subscribe(&mut self) -> Result<(), Stuck> {
        let Some(line) = self.line.clone() else { return Err(Stuck) };
        if !self.hears_itself {
            let heard = line.hear(of_node(&self.settings.name, &self.own.node)).await?;
            self.heard.push(heard.map(|message| (None, message)).boxed());
            self.hears_itself = true;
        }
        let missing: Vec<Arc<str>> =
            self.rooms.iter().filter(|(_, room)| room.subscription.is_none()).map(|(key, _)| key.clone()).collect();
        for key in missing {
            self.subscribe_to(&line, &key).await?;
        }
        Ok(())
    }

    async fn subscribe_to(&mut self, line: &Line, key: &Arc<str>) -> Result<(), Stuck> {
        let heard = line.hear(of_room(&self.settings.name, key)).await?;
        let (ends, ended) = oneshot::channel();
        if let Some(room) = self.rooms.get_mut(key) {
            room.subscription = Some(ends);
            self.heard.push(of_topic(heard, key.clone(), ended));
        }
        Ok(())
    }

    async fn mark(&mut self) -> Result<(), Stuck> {
        let (Some(line), State::Marking { mark, .. }) = (&self.line, &self.state) else { return Err(Stuck) };
        let heading = Heading { from: self.own.clone(), count: self.nodes.number(), room: None, mark: Some(*mark) };
        let subject = of_node(&self.settings.name, &self.own.node);
        let headers = heading.sealed(&self.nodes.seals, &subject, &[]);
        line.say(subject, headers, Vec::new()).await
    }

    /// Carries out what the engine wants.
    async fn take(&mut self, order: Order) {
        match order {
            Order::Listen { room } => self.listen(room).await,
            Order::Ignore { room } => {
                self.rooms.remove(key_of(&room).as_str());
                self.count_rooms();
            }
            Order::Say { room, payload } => {
                let subject = of_room(&self.settings.name, &key_of(&room));
                self.say(subject, Some(room), payload).await;
            }
            Order::Tell { node, payload } => self.say(of_node(&self.settings.name, &node), None, payload).await,
            Order::Claim { room, replaced } => self.errand(Errand::Claim { room, replaced }).await,
            Order::Release { room, revision } => self.errand(Errand::Release { room, revision }).await,
        }
    }

    async fn listen(&mut self, room: String) {
        let key: Arc<str> = key_of(&room).into();
        if self.rooms.len() >= ROOMS_MAX && !self.rooms.contains_key(&key) {
            return self.drop_one(Dropped::Full);
        }
        self.rooms.entry(key.clone()).or_insert(Listened { subscription: None });
        self.count_rooms();
        // While the cluster is away that waits until it is back.
        if let (false, Some(line)) = (matches!(self.state, State::Away), self.line.clone())
            && self.rooms.get(&key).is_some_and(|room| room.subscription.is_none())
        {
            self.is_overrun |= self.subscribe_to(&line, &key).await.is_err();
        }
    }

    async fn say(&mut self, subject: String, room: Option<String>, payload: Vec<u8>) {
        if payload.len() > MESSAGE_LEN_MAX {
            return self.drop_one(Dropped::TooLong);
        }
        let (State::Connected, Some(line)) = (&self.state, &self.line) else { return self.drop_one(Dropped::Away) };
        let heading = Heading { from: self.own.clone(), count: self.nodes.number(), room, mark: None };
        let headers = heading.sealed(&self.nodes.seals, &subject, &payload);
        match line.say(subject, headers, payload).await {
            Ok(()) => self.count(|counts| counts.said += 1),
            Err(Stuck) => self.is_overrun = true,
        }
    }

    async fn errand(&mut self, errand: Errand) {
        let is_up = self.standing.borrow().is_up;
        let refused = match &mut self.claims {
            Some(claims) if is_up => claims.push(errand).err().map(|errand| (errand, Dropped::Full)),
            _ => Some((errand, Dropped::Away)),
        };
        if let Some((errand, why)) = refused {
            self.drop_one(why);
            if let Errand::Claim { room, .. } = errand {
                self.claimed(room, Some(Claim::Unknown)).await;
            }
        }
    }

    async fn claimed(&mut self, room: String, claim: Option<Claim>) {
        let Some(claim) = claim else { return };
        let at = match claim {
            Claim::Ours { .. } => 0,
            Claim::Theirs { .. } => 1,
            Claim::Unknown => 2,
        };
        self.count(|counts| counts.claims[at] += 1);
        self.handle.cluster(News::Claimed { room, claim }).await;
    }

    /// The heading of a message, if a node has sealed it.
    fn read(&self, topic: Topic, message: &Message) -> Result<Option<Heading>, MessageRefusal> {
        let header = |name: &str| message.header(name);
        let heading = Heading::read(header, message.payload().len(), topic.as_deref(), &self.own)?;
        let Some(heading) = heading else { return Ok(None) };
        let subject = match &topic {
            Some(key) => of_room(&self.settings.name, key),
            None => of_node(&self.settings.name, &self.own.node),
        };
        heading.check(&self.nodes.seals, &subject, message.header(SEAL), message.payload())?;
        Ok(Some(heading))
    }

    /// Takes all that was heard by now: what one node said on several subjects is told in the order in which it said it.
    async fn hear(&mut self, topic: Topic, message: Message) {
        let mut batch: Vec<(Heading, Message)> = Vec::new();
        let mut next = Some((topic, message));
        while let Some((topic, message)) = next {
            match self.read(topic, &message) {
                Ok(Some(heading)) => batch.push((heading, message)),
                Ok(None) => {}
                Err(refusal) => self.nodes.refuse_message(refusal, message.header(NODE)),
            }
            // All of it: the connection's task is not running meanwhile, so what is here was sent before what is not.
            next = unconstrained(self.heard.next()).now_or_never().flatten();
        }
        batch.sort_by(|(a, _), (b, _)| (&a.from, a.count).cmp(&(&b.from, b.count)));
        let mut is_marked = false;
        for (heading, message) in batch {
            let from = heading.from;
            if from == self.own {
                is_marked |= matches!(self.state, State::Marking { mark, .. } if Some(mark) == heading.mark);
                continue;
            }
            if !self.window.take(&from, heading.count) {
                self.nodes.refuse_message(MessageRefusal::Replayed, Some(&from.node));
                continue;
            }
            let payload = message.payload().to_vec();
            let news = match heading.room {
                None => News::Told { from, payload },
                // It may have been left meanwhile.
                Some(room) if self.rooms.contains_key(key_of(&room).as_str()) => News::Said { room, from, payload },
                Some(_) => continue,
            };
            self.count(|counts| counts.heard += 1);
            match &mut self.state {
                State::Connected => self.handle.cluster(news).await,
                State::Marking { held, .. } if held.len() < HELD_MAX => held.push(news),
                State::Marking { .. } => self.is_overrun = true,
                State::Away => {}
            }
        }
        if is_marked && let State::Marking { held, .. } = std::mem::replace(&mut self.state, State::Connected) {
            self.count(|counts| counts.is_connected = true);
            self.handle.cluster(News::Connected(true)).await;
            for news in held {
                self.handle.cluster(news).await;
            }
        }
    }

    /// Carries out what the engine wanted last, and gives up what it gives up.
    async fn end(mut self) {
        let farewell = async {
            while let Some(order) = self.orders.as_mut().and_then(OrderOutlet::try_next) {
                match order {
                    Order::Claim { .. } => {} // Nobody is there to be told.
                    order => self.take(order).await,
                }
            }
            if let Some(claims) = &mut self.claims {
                while !claims.is_idle() {
                    claims.next().await;
                }
            }
            if let Some(line) = &self.line {
                line.flush().await;
            }
        };
        let _ = timeout(FAREWELL_TIMEOUT, farewell).await; // The others see the lease end.
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.nodes.inner().bus);
    }

    fn count_rooms(&self) {
        let rooms = self.rooms.len();
        self.count(|counts| counts.rooms = rooms);
    }

    fn drop_one(&self, why: Dropped) {
        self.count(|counts| counts.dropped[why as usize] += 1);
    }
}

/// What is heard of a room, until `ended`.
fn of_topic(heard: Heard, key: Arc<str>, ended: oneshot::Receiver<()>) -> BoxStream<'static, (Topic, Message)> {
    heard.map(move |message| (Some(key.clone()), message)).take_until(ended).boxed()
}
