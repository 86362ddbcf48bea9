//! One edge's way to another: its probes of each path, the choice of the worker, and the order of the controlplane.

use controlplane::overlay::{self, Known, Leg, Legs, Site};
use dataplane::overlay::{Look, Measured, Monitor, Selection, State, Via};

use super::world::{Micros, SECOND};

/// The same path as the controlplane says it.
fn told(via: Via) -> overlay::Via {
    match via {
        Via::Direct => overlay::Via::Direct,
        Via::Relay(node) => overlay::Via::Relay(node),
    }
}

fn heard(via: overlay::Via) -> Via {
    match via {
        overlay::Via::Direct => Via::Direct,
        overlay::Via::Relay(node) => Via::Relay(node),
    }
}

pub(super) fn leg(measured: Measured) -> Leg {
    let us = |micros: Micros| u32::try_from(micros).unwrap_or(u32::MAX);
    Leg { rtt_us: us(measured.rtt), jitter_us: us(measured.jitter), loss_ppm: measured.loss_ppm }
}

/// A path that was found dead or bad is not tried again for so long, if there is another one.
const REFUSED_FOR: Micros = 20 * SECOND;

pub(super) struct Flow {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) selection: Selection,
    pub(super) monitors: Vec<(Via, Monitor)>,
    interval: Micros,
    order: Vec<overlay::Via>,
    /// Paths that were found dead or bad, and when.
    refused: Vec<(Via, Micros)>,
}

impl Flow {
    pub(super) fn new(from: u16, to: u16, now: Micros, interval: Micros) -> Self {
        let monitors = vec![(Via::Direct, Monitor::new(now, interval))];
        Flow { from, to, selection: Selection::new(), monitors, interval, order: Vec::new(), refused: Vec::new() }
    }

    pub(super) fn monitor(&mut self, via: Via) -> Option<&mut Monitor> {
        self.monitors.iter_mut().find(|(of, _)| *of == via).map(|(_, monitor)| monitor)
    }

    /// What the worker does with what it measures.
    pub(super) fn look(&mut self, now: Micros) -> (Option<Via>, bool) {
        let looks: Vec<_> = self
            .monitors
            .iter()
            .map(|(via, monitor)| Look {
                via: *via,
                state: monitor.state(now),
                is_clean: monitor.is_clean(),
                measured: monitor.measured(),
            })
            .collect();
        let moved = self.selection.look(now, &looks);
        // Without a good path to go to, others are wanted at once.
        (moved, !looks.iter().any(|look| look.state == State::Good && look.is_clean))
    }

    /// What the controlplane does with what both ends know.
    pub(super) fn order(&mut self, now: Micros, sites: (Site, Site), relays: &[Site], ours: &Legs, theirs: &Legs) {
        self.refused.retain(|(_, at)| now < at + REFUSED_FOR);
        let mut whole = Vec::new();
        for (via, monitor) in &self.monitors {
            match monitor.state(now) {
                State::Unknown => {}
                State::Good => {
                    self.refused.retain(|(refused, _)| refused != via);
                    whole.extend(monitor.measured().map(|measured| (told(*via), Some(leg(measured)))));
                }
                State::Bad | State::Dead => {
                    self.refused.retain(|(refused, _)| refused != via);
                    self.refused.push((*via, now));
                }
            }
        }
        whole.extend(self.refused.iter().map(|(via, _)| (told(*via), None)));
        let known = Known { here: sites.0, there: sites.1, relays, ours, theirs, whole: &whole };
        self.order = overlay::choose(&known, &self.order);
        let order: Vec<_> = self.order.iter().map(|&via| heard(via)).collect();
        self.selection.prefer(&order);
        let paths: Vec<_> = self.selection.paths().collect();
        self.monitors.retain(|(via, _)| paths.contains(via));
        for via in paths {
            if self.monitor(via).is_none() {
                self.monitors.push((via, Monitor::new(now, self.interval)));
            }
        }
    }
}
