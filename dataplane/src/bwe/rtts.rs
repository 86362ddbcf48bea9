//! Round trips of a path: as feedback shows them, or as somebody else has measured them.

use crate::config::{MILLISECOND, Micros, SECOND};

/// Round trips of the last feedbacks, of which the mean is taken (`kMaxFeedbackRttWindow`).
const RTTS: usize = 32;
/// A reported round trip counts for this long.
const RTT_REPORTED: Micros = 10 * SECOND;

/// Round trips of one path.
#[derive(Default)]
pub(super) struct Rtts {
    /// Milliseconds between the sending of a feedback's first packet and the feedback, a ring.
    feedback_ms: [u16; RTTS],
    count: usize,
    mean: Option<Micros>,
    path: Option<Micros>,
    pub(super) reported: Option<(Micros, Micros)>,
}

impl Rtts {
    pub(super) fn measured(&mut self, feedback: Micros, path: Micros) {
        let millis = (feedback + MILLISECOND / 2) / MILLISECOND;
        self.feedback_ms[self.count % RTTS] = millis.min(Micros::from(u16::MAX)) as u16;
        self.count += 1;
        let count = self.count.min(RTTS);
        let sum: Micros = self.feedback_ms[..count].iter().copied().map(Micros::from).sum();
        self.mean = Some(sum / count as Micros * MILLISECOND);
        self.path = Some(path);
    }

    /// What a change takes until it is seen: as reported, or the mean of the last feedbacks, or 200 ms (`kDefaultRtt`).
    pub(super) fn feedback(&self, now: Micros) -> Micros {
        if let Some((at, rtt)) = self.reported
            && now.saturating_sub(at) < RTT_REPORTED
        {
            return rtt;
        }
        self.mean.unwrap_or(200 * MILLISECOND)
    }

    pub(super) fn path(&self) -> Option<Micros> {
        self.reported.map(|(_, rtt)| rtt).or(self.path)
    }
}
