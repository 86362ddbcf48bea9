//! Who speaks: what workers report becomes who is told to speak, whose voices are passed on, and who is in the slots ([`crate::speakers`]).

use std::time::Instant;

use proto::id::StreamId;
use proto::plane::{Event, Gate, StreamGate};
use proto::signal::Source;

use super::{Engine, Handle, Hosted, Timer};
use crate::ids::SlabId;
use crate::member::Member;
use crate::placement::plan_of;
use crate::policy::MICROPHONES_ALL;
use crate::room::Room;
use crate::speakers::Look;

impl Engine {
    /// A worker says that somebody speaks in a stream of a peer, or does not any more.
    pub(super) fn spoken(&mut self, now: Instant, handle: Handle, event: &Event) {
        let Some(name) = self.room_name(handle).cloned() else { return };
        let Some(Hosted { room, speakers, .. }) = self.rooms.get_mut(&name) else { return };
        match event {
            Event::StreamSpeaks(event) if is_microphone(room, event.stream) => {
                speakers.speaks(now, event.stream, handle.peer, event.loudness);
            }
            Event::StreamQuiet(event) => speakers.is_quiet(now, event.stream),
            _ => return,
        }
        self.voices_changed(&name);
    }

    /// It is time to look at who speaks.
    pub(super) fn voices_due(&mut self, now: Instant) {
        let due = self
            .rooms
            .iter_mut()
            .filter_map(|(name, hosted)| hosted.voices_due.take_if(|due| *due <= now).map(|_| name.clone()));
        // When it is time again, the look says that follows.
        due.collect::<Vec<String>>().iter().for_each(|name| self.voices_changed(name));
        self.set_voices_timer();
    }

    /// Looks at who speaks in a room if that has changed, and has voices passed on accordingly. `has_tracks`: perhaps there are other
    /// microphones than before, or some are off, and so what workers have said of all of them counts anew.
    pub(super) fn look_at_voices(&mut self, name: &str, has_voices: bool, has_tracks: bool) -> Look {
        let Some(now) = self.now.filter(|_| has_voices || has_tracks) else { return Look::default() };
        let places = self.settings_of(name).voices_max as usize;
        let Engine { rooms, workers, .. } = self;
        let Some(hosted) = rooms.get_mut(name) else { return Look::default() };
        let Hosted { room, speakers, .. } = hosted;
        let count = room.members().iter().flat_map(microphones).count();
        let is_large = count > MICROPHONES_ALL;
        let is_heard = |stream| {
            let track = room.track(stream);
            track.is_some_and(|(member, track)| track.is_active && !track.is_paused && !member.is_withheld(track))
        };
        for member in room.members().iter().filter(|_| has_tracks) {
            let Some(worker) = workers.get(&member.peer.worker()) else { continue };
            for stream in microphones(member) {
                match worker.plan.spoken_in(stream) {
                    Some(loudness) => speakers.speaks(now, stream, member.peer, loudness),
                    None => speakers.is_quiet(now, stream),
                }
            }
        }
        let look = speakers.look(now, if is_large { places } else { usize::MAX }, is_heard);
        if look.has_moved || has_tracks {
            for member in room.members() {
                let Some(plan) = plan_of(workers, member.peer.worker()) else { continue };
                for stream in microphones(member) {
                    let gate = if is_large { speakers.gate_of(stream) } else { Gate::Open };
                    if gate != Gate::Open || plan.has_gate(stream) {
                        plan.want_rate(StreamGate { stream, gate });
                    }
                }
            }
        }
        if look.has_news {
            room.set_speaking(speakers.shown(), speakers.dominant());
        }
        hosted.voices_due = look.next;
        self.set_voices_timer();
        look
    }

    fn set_voices_timer(&mut self) {
        let due = self.rooms.values().filter_map(|hosted| hosted.voices_due).min();
        self.timers.set(Timer::Voices, due);
    }
}

/// The streams of a member's microphones.
fn microphones(member: &Member) -> impl Iterator<Item = StreamId> {
    member.published().filter(|track| track.source == Source::Microphone).map(|track| track.stream)
}

fn is_microphone(room: &Room, stream: StreamId) -> bool {
    room.track(stream).is_some_and(|(_, track)| track.source == Source::Microphone)
}
