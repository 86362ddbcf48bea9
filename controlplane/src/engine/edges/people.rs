//! Who is in a room: what we say of our members, and what other edges say of theirs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::id::PeerId;
use proto::signal::LeaveReason;

use super::super::{Engine, Handle, Hosted};
use super::ASKED_MAX;
use crate::bus::{Order, Sender};
use crate::edges::import::Import;
use crate::edges::message::{Here, PEOPLE_MAX, Person, Saying, Telling};
use crate::edges::part::{Change, Gap, Part};
use crate::ids::SlabId;
use crate::member::{Elsewhere, Looks, Member};
use crate::placement::plan_of;
use crate::policy::{Grant, codec_of};
use crate::quality::{Judge, Redundancy};
use crate::wiring::close_peer;

/// Somebody elsewhere from whose transport nothing comes, as its worker has said after 7 to 10 s, is not shown after this.
const AWAY_AFTER: Duration = Duration::from_secs(20);

impl Engine {
    /// A room has begun here, or the cluster is there again: the others are asked who is in it, and told.
    pub(in crate::engine) fn listen(&mut self, name: &str) {
        if self.edges.node.is_none() {
            return;
        }
        let Some(Hosted { remote, .. }) = self.rooms.get_mut(name) else { return };
        remote.is_whole_due = true;
        remote.parts.values_mut().for_each(Part::doubt);
        self.order(Order::Listen { room: name.to_owned() });
        self.say(name, &Saying::Who {});
        self.room_changed(name);
    }

    fn say(&mut self, room: &str, saying: &Saying) {
        self.order(Order::Say { room: room.to_owned(), payload: saying.write() });
    }

    /// Another edge does not know who is in a room through this one.
    pub(super) fn asked_who(&mut self, name: &str) {
        if let Some(Hosted { remote, .. }) = self.rooms.get_mut(name) {
            remote.is_whole_due = true;
            self.room_changed(name);
        }
    }

    /// The same, of one that asks because it believes that somebody is. Before all is adopted nobody knows.
    pub(super) fn asked_who_is_here(&mut self, name: &str) {
        if !self.rooms.contains_key(name) && self.is_ready() {
            return self.say(name, &Saying::Here(Here { begins: true, ends: true, ..Here::default() }));
        }
        self.asked_who(name);
    }

    /// Says what is new of our members, or all of it if that is due.
    pub(in crate::engine) fn say_members(&mut self, name: &str) {
        if self.edges.node.is_none() {
            return;
        }
        let Some(Hosted { room, remote, .. }) = self.rooms.get_mut(name) else { return };
        let is_whole = std::mem::take(&mut remote.is_whole_due);
        let own = room.members().iter().filter(|member| member.elsewhere.is_none());
        let now: BTreeMap<String, Person> =
            own.map(|member| (member.id.clone(), Person::of(member, member.peer.worker()))).collect();
        let is_news = |person: &&Person| is_whole || remote.said.get(&person.id) != Some(*person);
        let people: Vec<Person> = now.values().filter(is_news).cloned().collect();
        let mut left = std::mem::take(&mut remote.left);
        left.retain(|(id, _)| remote.said.contains_key(id) && !now.contains_key(id));
        remote.said = now;
        if people.is_empty() && left.is_empty() && !is_whole {
            return;
        }
        let count = people.len().div_ceil(PEOPLE_MAX).max(left.len().div_ceil(PEOPLE_MAX)).max(1);
        let (mut people, mut left) = (people.into_iter(), left.into_iter());
        for n in 0..count {
            let here = Here {
                seq: self.next_seq(name),
                begins: is_whole && n == 0,
                ends: is_whole && n + 1 == count,
                people: people.by_ref().take(PEOPLE_MAX).collect(),
                left: left.by_ref().take(PEOPLE_MAX).collect(),
            };
            self.say(name, &Saying::Here(here));
        }
    }

    fn next_seq(&mut self, name: &str) -> u64 {
        let Some(Hosted { remote, .. }) = self.rooms.get_mut(name) else { return 0 };
        remote.seq += 1;
        remote.seq
    }

    /// Says that nothing is new, in a room that others have, too.
    pub(super) fn say_heartbeat(&mut self, name: &str) {
        let has_given_up = !self.edges.given_up.is_empty();
        if self.rooms.get(name).is_some_and(|hosted| has_given_up || !hosted.remote.parts.is_empty()) {
            let here = Here { seq: self.next_seq(name), ..Here::default() };
            self.say(name, &Saying::Here(here));
        }
    }

    /// The last of our members has left a room: nobody is in it through this edge.
    fn say_nobody(&mut self, name: &str) {
        if self.edges.node.is_none() {
            return;
        }
        let here = Here { seq: self.next_seq(name), begins: true, ends: true, ..Here::default() };
        self.say(name, &Saying::Here(here));
        self.order(Order::Ignore { room: name.to_owned() });
    }

    /// The last of our members has left a room, which others may still have: it ends here, with all that came from them.
    pub(in crate::engine) fn leave_to_others(&mut self, name: &str) {
        self.close_exports(name, |_| true);
        let elsewhere = self.room(name).map(|room| room.members().to_vec()).unwrap_or_default();
        for member in elsewhere {
            let Some(import) = self.edges.imports.remove(&Handle::of(member.peer)) else { continue };
            if import.transport.is_some() {
                self.write_journal(Handle::of(member.peer), None);
            }
            if import.told.is_some() {
                self.unwant(&import.node, name, &member.id);
            }
            if let Some(Hosted { wiring, .. }) = self.rooms.get_mut(name) {
                wiring.leave(&member, &mut self.workers);
            }
            if let Some(plan) = plan_of(&mut self.workers, member.peer.worker()) {
                close_peer(&member, plan);
            }
        }
        self.say_nobody(name);
    }

    /// Another edge says who is in a room through it.
    pub(super) fn here(&mut self, now: Instant, name: &str, from: &Sender, here: Here) {
        if !self.is_ready() {
            return; // It is asked when we are.
        }
        let Some(Hosted { remote, .. }) = self.rooms.get_mut(name) else { return };
        let is_new = !remote.parts.contains_key(&from.node);
        let part = remote.parts.entry(from.node.clone()).or_insert_with(|| Part::new(&from.run));
        match part.take(from, here) {
            Err(Gap) => {
                if is_new || part.asked() == 0 {
                    part.ask();
                    self.tell_node(&from.node, &Telling::Who { room: name.to_owned() });
                }
            }
            Ok(changes) => {
                let (is_whole, is_over) = (part.is_whole(), part.is_whole() && part.ids().next().is_none());
                if is_over {
                    remote.parts.remove(&from.node);
                    self.close_exports(name, |export| export.to.node == from.node);
                }
                for change in changes {
                    match change {
                        Change::Is(person) => self.person_is(now, name, &from.node, *person),
                        Change::Left(id, reason) => self.person_left(name, &from.node, &id, reason),
                    }
                }
                if is_whole {
                    self.show_again(name, &from.node);
                }
            }
        }
    }

    /// Asks again what was not answered, and gives up those of a run of their edge that is over and whom its successor does not name.
    pub(super) fn ask_again(&mut self, name: &str) {
        let Some(Hosted { remote, .. }) = self.rooms.get_mut(name) else { return };
        let nodes = &self.edges.nodes;
        let is_over = |node: &str, part: &Part| nodes.get(node).is_none_or(|now| now.node.run != part.run());
        let (mut asked, mut lost) = (Vec::new(), Vec::new());
        for (node, part) in &mut remote.parts {
            let is_over = is_over(node, part);
            if is_over || !part.is_whole() {
                part.ask();
                asked.push(node.clone());
            }
            if part.asked() > ASKED_MAX {
                lost.push(node.clone());
            }
        }
        for node in lost {
            self.lose_part(name, &node, LeaveReason::TimedOut);
        }
        for node in asked {
            self.tell_node(&node, &Telling::Who { room: name.to_owned() });
        }
    }

    /// While the cluster is away nobody says who has left. Of whom nothing has come for as long as the consent of a peer here lasts is not
    /// shown until something does: its transport says each second that it is there, whatever is sent over it. What crosses stays open.
    pub(super) fn look_after_away(&mut self, now: Instant) {
        let Engine { edges, workers, rooms, .. } = self;
        let mut changed = Vec::new();
        for (handle, import) in &mut edges.imports {
            let is_silent = || workers.get(&handle.worker).is_some_and(|of| of.plan.is_peer_silent(handle.peer));
            import.silent_since = match !edges.is_connected && import.told.is_some() && is_silent() {
                true => Some(import.silent_since.unwrap_or(now)),
                false => None,
            };
            let is_away = import.silent_since.is_some_and(|since| since + AWAY_AFTER <= now);
            let member = rooms.get_mut(&import.room).and_then(|hosted| hosted.room.member_mut(handle.peer));
            let Some(elsewhere) = member.and_then(|member| member.elsewhere.as_mut()) else { continue };
            // When the cluster is there again, its edge says whether it is there.
            if elsewhere.is_away != is_away && !(elsewhere.is_away && edges.is_connected) {
                elsewhere.is_away = is_away;
                changed.push(import.room.clone());
            }
        }
        changed.dedup();
        changed.iter().for_each(|name| self.slots_changed(name));
    }

    /// A node has said who is in a room through it.
    fn show_again(&mut self, name: &str, node: &str) {
        let Some(Hosted { room, .. }) = self.rooms.get_mut(name) else { return };
        if room.show_again(node) {
            self.slots_changed(name);
        }
    }

    /// Nobody is in a room through a node any more.
    pub(super) fn lose_part(&mut self, name: &str, node: &str, reason: LeaveReason) {
        let Some(Hosted { remote, .. }) = self.rooms.get_mut(name) else { return };
        let Some(part) = remote.parts.remove(node) else { return };
        for id in part.ids() {
            self.person_left(name, node, id, reason);
        }
    }

    fn find_person(&self, name: &str, node: &str, id: &str) -> Option<Handle> {
        let is_it = |member: &&Member| {
            member.id == id && member.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.node == node)
        };
        self.room(name)?.members().iter().find(is_it).map(|member| Handle::of(member.peer))
    }

    fn person_left(&mut self, name: &str, node: &str, id: &str, reason: LeaveReason) {
        if let Some(handle) = self.find_person(name, node, id) {
            self.forget_person(handle, reason);
        }
    }

    /// Somebody who was in a room through another edge is not any more.
    pub(super) fn forget_person(&mut self, handle: Handle, reason: LeaveReason) {
        let Some(import) = self.edges.imports.remove(&handle) else { return };
        if import.transport.is_some() {
            self.write_journal(handle, None);
        }
        let member = self.leave_room(handle, &import.room, reason);
        if let (Some(member), Some(plan)) = (member, plan_of(&mut self.workers, handle.worker)) {
            close_peer(&member, plan);
        }
    }

    /// Somebody is in a room through another edge.
    fn person_is(&mut self, now: Instant, name: &str, node: &str, person: Person) {
        let Some(handle) = self.find_person(name, node, &person.id) else {
            return self.person_came(now, name, node, person);
        };
        if self.edges.imports.get(&handle).is_some_and(|import| import.theirs != person.worker) {
            // It comes from another worker there.
            self.forget_person(handle, LeaveReason::Moved);
            return self.person_came(now, name, node, person);
        }
        let elsewhere = Box::new(elsewhere(node, &person));
        let Some(member) = self.rooms.get_mut(name).and_then(|hosted| hosted.room.member_mut(handle.peer)) else {
            return;
        };
        let has_other_quality = member.judge.quality() != person.quality;
        let has_other_rights = member.elsewhere.as_ref() != Some(&elsewhere) || member.grant.publish != person.publish;
        member.judge = Judge::told(person.quality);
        member.grant.publish = person.publish;
        member.hears = person.hears;
        member.elsewhere = Some(elsewhere);
        if has_other_quality {
            self.qualities_changed(name);
        }
        if has_other_rights {
            self.slots_changed(name);
        }
        self.person_publishes(now, handle, &person);
    }

    pub(super) fn person_came(&mut self, now: Instant, name: &str, node: &str, person: Person) {
        let is_known = self.room(name).is_some_and(|room| room.members().iter().any(|other| other.id == person.id));
        if is_known || self.workers.is_empty() {
            return;
        }
        let worker = usize::from(person.worker) % self.workers.len();
        let Some(peer) = plan_of(&mut self.workers, worker).and_then(|plan| plan.issue_remote()) else {
            self.totals.people_left_out += 1;
            return;
        };
        let handle = Handle { worker, peer };
        self.edges.imports.insert(handle, Import::new(name, node, person.worker));
        let member = member_of(peer, name, node, &person);
        if let Some(Hosted { room, .. }) = self.rooms.get_mut(name) {
            room.join(member);
        }
        self.slots_changed(name);
        self.person_publishes(now, handle, &person);
    }
}

/// Somebody elsewhere as a member of the room here, without tracks yet.
pub(super) fn member_of(peer: PeerId, room: &str, node: &str, person: &Person) -> Member {
    let grant = Grant {
        room: room.to_owned(),
        name: person.name.clone(),
        publish: person.publish,
        role: person.role,
        token: person.token.clone(),
        ..Grant::default()
    };
    let grant = grant.with_plain_name();
    Member {
        peer,
        id: person.id.clone(),
        looks: Looks::of(&grant.name),
        is_lookalike: false,
        judge: Judge::told(person.quality),
        redundancy: Redundancy::default(),
        grant,
        tracks: Vec::new(),
        slots: Vec::new(),
        hears: person.hears,
        from: Vec::new(),
        shown: Vec::new(),
        elsewhere: Some(Box::new(elsewhere(node, person))),
    }
}

fn elsewhere(node: &str, person: &Person) -> Elsewhere {
    let shows = person.shows.as_ref().map(|shows| shows.iter().map(|&video| codec_of(video)).collect());
    Elsewhere { node: node.to_owned(), shows, is_away: false }
}
