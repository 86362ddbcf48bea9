//! A room: who is in it, who may hear whom, and whose track is assigned to which slot.
//!
//! It is pure: it knows no worker, no socket and no clock. What its assignments mean for workers is
//! [`crate::wiring`]'s business, what clients are told of them is [`crate::view`]'s, and how a member is reached is
//! [`crate::peer`]'s. Members may be on several workers, which makes no difference here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::id::{PeerId, StreamId};
use proto::signal::{Kind, PeerInfo, ServerSignal, SlotInfo, Source, VideoCodec};

use crate::last_n::{Choices, LastN, pinned};
use crate::member::{Looks, Member, Slot, Track};
use crate::policy::{VideoCodecs, codec_of};
use crate::sdp::OpusParams;
use crate::slots::{self, Flow, Slots, Wish};
use crate::wishes::{self, Wishes};

/// One room.
pub(crate) struct Room {
    /// In the order of joining.
    members: Vec<Member>,
    /// The codecs of video that it uses, from its first member to its last.
    codecs: VideoCodecs,
    /// Whether somebody lacks a slot for something, as of the last assignment: then it matters who is silent.
    is_short: bool,
    /// What the last assignment went by.
    wishes: Vec<Wish>,
    /// Who speaks, the loudest first, and who is to be shown first, as clients are told.
    speaking: Vec<PeerId>,
    dominant: Option<PeerId>,
    /// Whose videos come first, where their number is limited.
    last_n: LastN,
}

/// Of whom nothing comes, and who speaks.
#[derive(Default, Debug)]
pub(crate) struct Absence {
    /// Members that may not be there any more.
    pub(crate) gone: BTreeSet<PeerId>,
    /// Streams without packets.
    pub(crate) silent: BTreeSet<StreamId>,
    /// Streams in which somebody speaks, and is to be heard.
    pub(crate) speaking: BTreeSet<StreamId>,
    /// Those in which somebody did just now.
    pub(crate) spoke: BTreeSet<StreamId>,
}

impl Room {
    /// An empty room.
    pub(crate) fn new(codecs: VideoCodecs) -> Self {
        Self {
            members: Vec::new(),
            codecs,
            is_short: false,
            wishes: Vec::new(),
            speaking: Vec::new(),
            dominant: None,
            last_n: LastN::default(),
        }
    }

    /// The codecs of video that it uses.
    pub(crate) fn codecs(&self) -> VideoCodecs {
        self.codecs
    }

    /// In which codec its publishers should send video now: the one that most of those who receive video can show, the
    /// preferred one where that is equal. So one peer without H.264 moves a room of browsers to VP8, and its leaving moves
    /// them back.
    pub(crate) fn video(&self) -> VideoCodec {
        let can_show = |video| move |member: &&Member| member.shows(codec_of(video)) == Some(true);
        let count = |video| self.members.iter().filter(can_show(video)).count();
        let first = self.codecs.first();
        self.codecs.iter().fold(first, |best, video| if count(video) > count(best) { video } else { best })
    }

    /// In which codec a member sends video when it is told nothing after its answer, if that is known.
    pub(crate) fn video_at_first(&self, member: &Member) -> Option<VideoCodec> {
        Some(self.codecs.first()).filter(|&first| member.keeps_to(first))
    }

    /// Who is in it, in the order of joining.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// One of them.
    pub(crate) fn member(&self, peer: PeerId) -> Option<&Member> {
        self.members.iter().find(|member| member.peer == peer)
    }

    /// The one whom others know by this id.
    pub(crate) fn member_by_id(&self, id: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// One of them, to change.
    pub(crate) fn member_mut(&mut self, peer: PeerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.peer == peer)
    }

    /// Those who are in it through this edge are shown, if they were not. Whether somebody was not.
    pub(crate) fn show_again(&mut self, node: &str) -> bool {
        let of_node = self.members.iter_mut().filter_map(|member| member.elsewhere.as_mut());
        let of_node = of_node.filter(|elsewhere| elsewhere.node == node);
        of_node.fold(false, |any, elsewhere| std::mem::take(&mut elsewhere.is_away) | any)
    }

    /// Everybody as `peer` sees them.
    pub(crate) fn others(&self, peer: PeerId) -> Vec<PeerInfo> {
        self.members.iter().filter(|member| member.peer != peer && !member.is_away()).map(Member::info).collect()
    }

    /// Who speaks from now on, the loudest first, and who is to be shown first.
    pub(crate) fn set_speaking(&mut self, peers: &[PeerId], dominant: Option<PeerId>) {
        self.speaking = peers.to_vec();
        if let Some(peer) = dominant.filter(|_| self.dominant != dominant) {
            self.last_n.speaks(peer);
        }
        self.dominant = dominant;
    }

    /// Whether somebody is told to speak.
    pub(crate) fn is_speaking(&self, peer: PeerId) -> bool {
        self.speaking.contains(&peer)
    }

    /// Who speaks, as clients are told; nothing if nobody has spoken since they know of the room.
    pub(crate) fn speakers(&self) -> Option<ServerSignal> {
        let is_known = !self.speaking.is_empty() || self.dominant.is_some();
        is_known.then(|| self.who_speaks())
    }

    /// The same, also if nobody does.
    pub(crate) fn who_speaks(&self) -> ServerSignal {
        let id = |peer: PeerId| Some(self.member(peer)?.id.clone());
        let peers = self.speaking.iter().filter_map(|&peer| id(peer)).collect();
        ServerSignal::Speakers { peers, dominant: self.dominant.and_then(id) }
    }

    /// Takes a member in.
    pub(crate) fn join(&mut self, member: Member) {
        let looks = member.looks;
        self.members.push(member);
        self.compare_names(looks);
    }

    /// Marks those whose names look like this, if they are several people. Who came by one token is the same person in several
    /// windows. All are marked and not only who came last: who lost the connection and comes back is last.
    fn compare_names(&mut self, looks: Looks) {
        let mut tokens = self.members.iter().filter(|member| member.looks == looks).map(|member| &member.grant.token);
        let first = tokens.next();
        let are_several = tokens.any(|token| token.is_none() || Some(token) != first);
        let alike = self.members.iter_mut().filter(|member| member.looks == looks);
        alike.for_each(|member| member.is_lookalike = are_several);
    }

    /// Lets a member go. Nothing is assigned to its slots any more.
    pub(crate) fn leave(&mut self, peer: PeerId) -> Option<Member> {
        let at = self.members.iter().position(|member| member.peer == peer)?;
        let mut member = self.members.remove(at);
        self.speaking.retain(|speaking| *speaking != peer);
        self.dominant = self.dominant.filter(|dominant| *dominant != peer);
        member.slots.iter_mut().for_each(|slot| slot.carries = None);
        self.compare_names(member.looks);
        Some(member)
    }

    /// Assigns the tracks of others to each member's slots, as the rule of [`crate::slots`] says. Whether any slot carries
    /// something else now. `only_tracks`: neither members nor slots have changed since the last time, only how tracks are.
    /// `videos_max`: how many videos each member receives, 0 for as many as it has slots for.
    pub(crate) fn assign(&mut self, absence: &Absence, only_tracks: bool, videos_max: usize) -> bool {
        let all: Vec<Wish> = self.members.iter().flat_map(|member| wishes_of(member, absence)).collect();
        let before = std::mem::replace(&mut self.wishes, all.clone());
        let is_named = self.members.iter().any(|member| !member.from.is_empty());
        if only_tracks && !is_named && videos_max == 0 && wishes::is_equivalent(&before, &all) {
            return false;
        }
        let named: Vec<Vec<Option<PeerId>>> =
            self.members.iter().map(|member| self.named_by(member, absence)).collect();
        let chosen = self.choose(videos_max, &all, &named);
        let can_come = |wish: &Wish| chosen.as_ref().is_none_or(|chosen| chosen.can_come(wish));
        let all: Vec<Wish> = all.into_iter().filter(can_come).collect();
        let wishes = Wishes::new(&all);
        self.is_short = chosen.as_ref().is_some_and(|chosen| chosen.choices.are_too_many());
        let mut has_changed = false;
        for (at, (member, named)) in self.members.iter_mut().zip(named).enumerate() {
            let own = member.peer;
            let is_chosen = |wish: &Wish| chosen.as_ref().is_none_or(|chosen| chosen.is_chosen(at, wish));
            let mut assigned = Slots::default();
            for slot in &member.slots {
                assigned.insert(slot.kind, usize::from(slot.sync_group), slot.carries, slot.is_paused);
            }
            match (member.grant.subscribe, named.is_empty()) {
                (false, _) => slots::assign(&mut assigned, &[]),
                (true, false) => {
                    let mut of_named = wishes.of_all(own, &named);
                    of_named.retain(is_chosen);
                    slots::assign_named(&mut assigned, &of_named, &named);
                }
                (true, true) if chosen.is_none() && wishes.is_settled(own, &assigned) => {}
                (true, true) => {
                    let beside = chosen.as_ref().map_or(0, |chosen| chosen.all.len());
                    let mut shortlist = wishes.shortlist(own, &assigned, beside);
                    shortlist.retain(is_chosen);
                    slots::assign(&mut assigned, &shortlist);
                }
            }
            self.is_short |= !named.is_empty() || (member.grant.subscribe && wishes.are_short(own, &assigned));
            for slot in &mut member.slots {
                let carries = assigned.carried_in(slot.kind, usize::from(slot.sync_group));
                has_changed |= slot.carries != carries;
                slot.carries = carries;
            }
        }
        has_changed
    }

    /// Which videos each member is to receive, if their number is limited.
    fn choose(&mut self, videos_max: usize, wishes: &[Wish], named: &[Vec<Option<PeerId>>]) -> Option<Chosen> {
        if videos_max == 0 {
            self.last_n.clear();
            return None;
        }
        let carried = self.members.iter().flat_map(|member| &member.slots).filter_map(|slot| slot.carries);
        self.last_n.update(wishes, carried, self.dominant);
        let choices = Choices::new(videos_max, wishes, &self.last_n);
        let ids: HashMap<&str, PeerId> = self.members.iter().map(|member| (member.id.as_str(), member.peer)).collect();
        let of_members = self.members.iter().zip(named).map(|(member, named)| {
            // Who names whom it wants has them in this order.
            let named = named.iter().flatten().flat_map(|&peer| [(peer, Source::Camera), (peer, Source::Screen)]);
            let said = pinned(&member.shown).filter_map(|(peer, source)| Some((*ids.get(peer)?, source)));
            let pinned: Vec<(PeerId, Source)> = named.chain(said).collect();
            let is_open = |slot: &&Slot| slot.kind == Kind::Video && !slot.is_paused;
            choices.of(member.peer, member.slots.iter().filter(is_open).count(), &pinned)
        });
        let of_members: Vec<BTreeSet<StreamId>> = of_members.collect();
        let all = of_members.iter().flatten().copied().collect();
        Some(Chosen { choices, of_members, all })
    }

    /// Whom a member means: by id, or else the one of that name who came last, because who comes again after a crash may be
    /// there twice until the consent of the one before ends. One that is gone is meant if there is no other.
    fn named_by(&self, member: &Member, absence: &Absence) -> Vec<Option<PeerId>> {
        let is_there = |other: &&Member| !absence.gone.contains(&other.peer);
        let find = |wanted: &String| {
            let by_id = self.members.iter().find(|other| other.id == *wanted);
            let by_name = self.members.iter().filter(|other| other.grant.name == *wanted);
            by_id.or_else(|| by_name.max_by_key(is_there)).map(|other| other.peer)
        };
        member.from.iter().map(find).collect()
    }

    /// What those declare of Opus who would receive a publisher of this name and id.
    pub(crate) fn listeners(&self, name: &str, id: &str) -> Vec<OpusParams> {
        let would_hear = |member: &&Member| {
            let is_wanted = member.from.is_empty() || member.from.iter().any(|from| from == name || from == id);
            // Of those elsewhere only what those declare who may receive is known.
            member.id != id && (member.grant.subscribe || member.elsewhere.is_some()) && is_wanted
        };
        self.members.iter().filter(would_hear).filter_map(|member| member.hears).collect()
    }

    /// Whether somebody lacks a slot for something.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }

    /// What each slot of `peer` carries.
    pub(crate) fn slot_infos(&self, peer: PeerId) -> Vec<SlotInfo> {
        let slots = self.member(peer).map(|member| member.slots.as_slice()).unwrap_or_default();
        slots.iter().map(|slot| self.slot_info(slot)).collect()
    }

    /// What one slot carries.
    pub(crate) fn slot_info(&self, slot: &Slot) -> SlotInfo {
        let carried = slot.carries.and_then(|stream| self.track(stream));
        SlotInfo {
            mid: slot.mid.clone(),
            kind: slot.kind,
            peer: carried.map(|(member, _)| member.id.clone()),
            track: carried.map(|(member, track)| member.track_info(track).track),
            source: carried.map(|(_, track)| track.source),
        }
    }

    /// The tracks that come in several encodings, by the streams by which they are known.
    pub(crate) fn tracks_in_several(&self) -> BTreeMap<StreamId, &Track> {
        let tracks = self.members.iter().flat_map(|member| &member.tracks);
        tracks.filter(|track| !track.encodings.is_empty()).map(|track| (track.stream, track)).collect()
    }

    /// The track of a stream, which may be one of its encodings, and whose it is.
    pub(crate) fn track(&self, stream: StreamId) -> Option<(&Member, &Track)> {
        self.members.iter().find_map(|member| {
            let track = member.tracks.iter().find(|track| track.is_of(stream))?;
            Some((member, track))
        })
    }

    /// A slot of a member, to change.
    pub(crate) fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.members.iter_mut().flat_map(|member| &mut member.slots)
    }
}

/// Which videos members are to receive.
struct Chosen {
    choices: Choices,
    of_members: Vec<BTreeSet<StreamId>>,
    /// All that somebody is to receive.
    all: BTreeSet<StreamId>,
}

impl Chosen {
    /// Whether a track may come to anybody.
    fn can_come(&self, wish: &Wish) -> bool {
        !self.choices.may_leave_out(wish) || self.all.contains(&wish.stream)
    }

    /// Whether a track may come to the member that is the `at`-th.
    fn is_chosen(&self, at: usize, wish: &Wish) -> bool {
        !self.choices.may_leave_out(wish) || self.of_members[at].contains(&wish.stream)
    }
}

/// What others may want of a member: everything published that it may publish and no operator has muted.
fn wishes_of(member: &Member, absence: &Absence) -> impl Iterator<Item = Wish> {
    let is_gone = absence.gone.contains(&member.peer);
    member.published().filter(|track| !member.is_withheld(track)).map(move |track| Wish {
        owner: member.peer,
        stream: track.stream,
        source: track.source,
        is_active: track.is_active,
        flow: match absence.silent.contains(&track.stream) {
            _ if is_gone => Flow::Gone,
            // What is off is expected to be silent.
            true if track.is_active => Flow::Silent,
            _ if !track.is_active => Flow::Live,
            _ if absence.speaking.contains(&track.stream) => Flow::Speaking,
            _ if absence.spoke.contains(&track.stream) => Flow::Spoke,
            _ => Flow::Live,
        },
    })
}
