//! What happens when, drawn from a seed.

use dataplane::Micros;

use crate::network::Conditions;
use crate::peer::ROOM_SIZE;
use crate::random::Random;

/// Something that happens to the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A peer comes.
    Enter(u16),
    /// A peer goes; whether it says so.
    Leave(u16, bool),
    /// A peer switches its microphone (0) or camera (1).
    Switch(u16, u8),
    /// Its signalling socket breaks.
    LoseSocket(u16),
    /// Its NAT gives it another port.
    Rebind(u16),
    /// Its network changes, up and down.
    Network(u16, Conditions, Conditions),
    /// `kill -9` of the controlplane, and for how long there is none.
    KillControlplane(Micros),
    /// `kill -9` of the dataplane; the next one starts at once.
    KillDataplane,
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// Workers of the dataplane.
    pub workers: usize,
    /// Peers of a room that one worker carries before the next goes to another.
    pub room_peers_per_worker: usize,
    /// Every peer that there will be.
    pub peers: Vec<u16>,
    /// Until then things happen; from then on everybody has a good network.
    pub storm: Micros,
    /// In order of time.
    pub actions: Vec<(Micros, Action)>,
}

/// How long everybody has a good network at the end, microseconds.
pub const CALM: Micros = 14_000_000;

impl Script {
    /// The run of a seed.
    pub fn draw(seed: u64) -> Script {
        let mut random = Random::new(seed, 0);
        let workers = random.between(1, 3) as usize;
        let rooms = random.between(1, 2);
        let storm = random.between(6, 14) * 1_000_000;
        let mut peers = Vec::new();
        let mut actions = Vec::new();
        for room in 0..rooms {
            let count = random.between(2, if rooms == 1 { 5 } else { 3 });
            peers.extend((0..count).map(|n| room as u16 * ROOM_SIZE + n as u16));
        }
        for &peer in &peers {
            let enters = random.below(storm / 2);
            actions.push((enters, Action::Network(peer, Conditions::draw(&mut random), Conditions::draw(&mut random))));
            actions.push((enters, Action::Enter(peer)));
            if random.permille(300) {
                let (leaves, says_so) = (random.between(enters, storm), random.permille(500));
                actions.push((leaves, Action::Leave(peer, says_so)));
                if random.permille(700) {
                    actions.push((random.between(leaves, storm), Action::Enter(peer)));
                }
            }
            for _ in 0..random.below(4) {
                let action = match random.below(4) {
                    0 => Action::Switch(peer, random.below(2) as u8),
                    1 => Action::LoseSocket(peer),
                    2 => Action::Rebind(peer),
                    _ => Action::Network(peer, Conditions::draw(&mut random), Conditions::draw(&mut random)),
                };
                actions.push((random.between(enters, storm), action));
            }
        }
        if random.permille(400) {
            let pause = random.between(100, 4000) * 1000;
            actions.push((random.below(storm), Action::KillControlplane(pause)));
        }
        if random.permille(200) {
            actions.push((random.below(storm), Action::KillDataplane));
        }
        actions.sort_by_key(|(at, _)| *at);
        let room_peers_per_worker = *random.pick(&[1, 2, 64]);
        Script { workers, room_peers_per_worker, peers, storm, actions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_script_and_seeds_reach_everything() {
        assert_eq!(Script::draw(7), Script::draw(7));
        let scripts: Vec<Script> = (0..50).map(Script::draw).collect();
        let has = |is: fn(&Action) -> bool| scripts.iter().flat_map(|s| &s.actions).any(|(_, action)| is(action));
        assert!(has(|action| matches!(action, Action::Leave(_, false))));
        assert!(has(|action| matches!(action, Action::Switch(_, 1))));
        assert!(has(|action| matches!(action, Action::LoseSocket(_))));
        assert!(has(|action| matches!(action, Action::Rebind(_))));
        assert!(has(|action| matches!(action, Action::KillControlplane(_))));
        assert!(has(|action| matches!(action, Action::KillDataplane)));
        assert!(scripts.iter().any(|s| s.workers > 1 && s.room_peers_per_worker == 1));
    }
}
