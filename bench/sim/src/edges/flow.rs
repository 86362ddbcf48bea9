//! One edge's way to another: its probes of each path, the choice of the worker, and the order of the controlplane.

use std::time::{Duration, Instant};

use controlplane::overlay::{self, Found, Leg, Legged, Paths};
use dataplane::overlay::{Look, Measured, Monitor, Selection, State, Via};

use super::world::Micros;

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

pub(super) struct Flow {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) selection: Selection,
    pub(super) monitors: Vec<(Via, Monitor)>,
    interval: Micros,
    /// Any moment: the controlplane's clock counts from it.
    began: Instant,
    paths: Paths,
}

impl Flow {
    pub(super) fn new(from: u16, to: u16, now: Micros, interval: Micros) -> Self {
        let monitors = vec![(Via::Direct, Monitor::new(now, interval))];
        Flow {
            from,
            to,
            selection: Selection::new(),
            monitors,
            interval,
            began: Instant::now(),
            paths: Paths::default(),
        }
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
                is_lossy: monitor.is_lossy(),
                measured: monitor.measured(),
            })
            .collect();
        let moved = self.selection.look(now, &looks);
        (moved, Selection::is_in_need(&looks))
    }

    /// What the controlplane does with what both ends know.
    pub(super) fn order(&mut self, now: Micros, legged: &Legged<'_>) {
        let found = |(via, monitor): &(Via, Monitor)| match monitor.state(now) {
            State::Unknown => None,
            State::Good => Some((told(*via), Found::Good(leg(monitor.measured()?)))),
            State::Bad | State::Dead => Some((told(*via), Found::Refused)),
        };
        let found: Vec<_> = self.monitors.iter().filter_map(found).collect();
        let order = self.paths.update(self.began + Duration::from_micros(now), legged, &found);
        let order: Vec<_> = order.iter().map(|&via| heard(via)).collect();
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
