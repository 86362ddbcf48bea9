//! The way out of a worker: packets to the kernel, messages to other workers, reports, punts and tallies to the controlplane.

use proto::link::WorkerLink;
use proto::plane::Counter;

use crate::config::Micros;
use crate::forward::{Counters, Flush};
use crate::io::{Io, Watch};
use crate::latency::Latency;
use crate::outbox::{Outbox, Relayed};
use crate::relay::{Message, RelaySender};
use crate::store::Store;

/// The link that is being served, and the watch over its eventfd.
pub(super) struct Served {
    pub(super) link: WorkerLink,
    pub(super) watch: Watch,
}

/// What the core's packets leave by.
pub(super) struct Egress {
    pub(super) io: Io,
    pub(super) outbox: Outbox,
    pub(super) latency: Latency,
    pub(super) relay: RelaySender,
    pub(super) served: Option<Served>,
}

impl Flush for Egress {
    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn flush(&mut self, now: Micros, store: &Store, counters: &mut Counters) {
        self.flush_relays(store, counters);
        let must_notify = self.flush_punts(counters) | self.flush_reports(counters);
        if let Some(served) = self.served.as_mut().filter(|_| must_notify) {
            served.link.notify();
        }
        if let Some(served) = &mut self.served {
            self.outbox.tallies().iter().for_each(|tally| served.link.publish_tally(tally));
        }
        if !self.outbox.is_empty() {
            let flushed = self.io.flush(now, &mut self.outbox);
            counters[Counter::SentTrains as usize] += flushed.trains;
            counters[Counter::SendFailed as usize] += flushed.failed;
            counters[Counter::SentFrames as usize] += flushed.frames;
            counters[Counter::FramesToSockets as usize] += flushed.left;
            self.settle_latency();
        } else {
            self.io.go_on(now, &mut self.outbox);
        }
        self.outbox.clear();
        self.count_tcp(counters);
    }

    fn note_latency(&mut self, at: Micros, copies: u64) {
        self.latency.note(at, copies);
    }
}

impl Egress {
    fn count_tcp(&mut self, counters: &mut Counters) {
        let Some(counts) = self.io.take_tcp_counts() else { return };
        counters[Counter::TcpOpen as usize] = counts.open;
        for (counter, count) in [
            (Counter::TcpAccepted, counts.accepted),
            (Counter::TcpRefused, counts.refused),
            (Counter::TcpUnowned, counts.unowned),
            (Counter::TcpMalformed, counts.malformed),
            (Counter::TcpSent, counts.sent),
            (Counter::TcpVideoDropped, counts.video_dropped),
            (Counter::TcpDropped, counts.dropped),
        ] {
            counters[counter as usize] += count;
        }
    }

    /// Counts how long it took what was just handed to the kernel. The clock is read once a flush.
    fn settle_latency(&mut self) {
        if self.latency.is_due() {
            let (now, served) = (self.io.now(), &mut self.served);
            self.latency.settle(now, |latencies, bucket| {
                if let Some(served) = served {
                    served.link.publish_latency(latencies, bucket);
                }
            });
        }
    }

    /// Messages into the lanes to other workers, before this one is busy with sending. A packet that finds its lane full
    /// was not relayed after all.
    fn flush_relays(&mut self, store: &Store, counters: &mut Counters) {
        let (mut full, mut any) = (0, false);
        while let Some(Relayed { to, message }) = self.outbox.pop_relay(store) {
            // A packet that is not in the store any more finds no room, either.
            let is_pushed = message.is_some_and(|message| self.relay.push(to, &message));
            full += u64::from(!is_pushed && message.is_none_or(|message| matches!(message, Message::Packet(_))));
            any = true;
        }
        if !any {
            return;
        }
        // Nobody has seen the first count: counters are published after the flush.
        counters[Counter::Relayed as usize] -= full;
        counters[Counter::RelayFull as usize] += full;
        self.relay.notify();
    }

    /// Reports into the event ring. One that finds it full is lost, and the controlplane is told to ask for a
    /// description. Whether there is anything for it to see.
    pub(super) fn flush_reports(&mut self, counters: &mut Counters) -> bool {
        let (mut pushed, mut lost) = (0, self.outbox.take_reports_lost());
        while let Some(report) = self.outbox.pop_report() {
            let is_pushed = self.served.as_mut().is_some_and(|served| served.link.push_report(&report.write()));
            *if is_pushed { &mut pushed } else { &mut lost } += 1;
        }
        counters[Counter::EventsLost as usize] += lost;
        if let Some(served) = self.served.as_mut().filter(|_| lost > 0) {
            served.link.raise_resync();
        }
        pushed + lost > 0
    }

    /// Punts into the punt ring. One that finds it full was not punted after all. Whether there is anything to see.
    fn flush_punts(&mut self, counters: &mut Counters) -> bool {
        let (mut pushed, mut lost) = (0, 0);
        while let Some((header, payload)) = self.outbox.pop_punt() {
            let is_pushed = self.served.as_mut().is_some_and(|served| served.link.push_punt(&header, payload));
            *if is_pushed { &mut pushed } else { &mut lost } += 1;
        }
        // Nobody has seen the first count: counters are published after the flush.
        counters[Counter::Punted as usize] -= lost;
        counters[Counter::DroppedPuntFull as usize] += lost;
        pushed > 0
    }
}
