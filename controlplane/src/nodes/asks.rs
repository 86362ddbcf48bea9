//! What an operator asks on one node and another has to answer: requests with an answer, over the same connection as everything else. What
//! is asked and who may ask it is the business of REST; this carries it.
//!
//! A request is asked once and never repeated: what was not answered in time may have been done.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Nodes;
use super::cluster::{Line, Message};
use super::message::{Heading, MessageRefusal, NODE, PROOF, of_answer, of_question};
use super::roster::State;
use super::seal::{Kind, WRAP_LEN_MAX};
use crate::bus::Sender;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer, bytes. NATS takes 1 MiB unless its configuration says otherwise.
pub const ANSWER_LEN_MAX: usize = 768 * 1024;

/// Questions that are being answered at once.
const UNDER_WAY_MAX: usize = 64;

/// Questions that may wait for who answers them.
const QUESTIONS_MAX: usize = 64;

/// How soon the subject is listened to again if the server did not take it.
const RETRY: Duration = Duration::from_secs(1);

/// Something that another node asks.
#[derive(Debug)]
pub struct Question {
    /// Who asks.
    pub from: Sender,
    /// Which of its questions it is.
    pub count: u64,
    /// That it may ask.
    pub proof: String,
    /// What.
    pub payload: Vec<u8>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// The questions of other nodes.
pub type Questions = mpsc::Receiver<Question>;

/// A queue of questions.
pub fn questions() -> (mpsc::Sender<Question>, Questions) {
    mpsc::channel(QUESTIONS_MAX)
}

/// The other node did not answer in time, or cannot be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unanswered;

impl Nodes {
    /// This node, in this run.
    pub fn own(&self) -> Sender {
        Sender { node: self.node.clone(), run: self.run.clone() }
    }

    /// The other nodes that are here.
    pub fn others(&self) -> Vec<Sender> {
        let inner = self.inner();
        let here = inner.roster.nodes().values().filter(|known| known.state == State::Here);
        let senders = here.map(|known| Sender { node: known.record.node.clone(), run: known.record.run.clone() });
        senders.filter(|other| other.node != self.node).collect()
    }

    /// Asks another node. `proof` makes what proves that this node may ask, of the number of the question.
    pub async fn ask(
        &self,
        other: &Sender,
        payload: Vec<u8>,
        proof: impl FnOnce(u64) -> String,
    ) -> Result<Vec<u8>, Unanswered> {
        let line = self.lines.borrow().clone().filter(|line| line.standing().borrow().is_up).ok_or(Unanswered)?;
        let count = self.number();
        let mut headers = Heading { from: self.own(), count, room: None, mark: None }.write();
        headers.push((PROOF, proof(count)));
        let back = format!("{}.{count}", of_answer(&self.cluster, &self.node));
        let asked = line.ask(of_question(&self.cluster, &other.node), headers, payload, back, ANSWER_TIMEOUT);
        let answer = asked.await.map_err(|_| Unanswered)?;
        let refuse = |refusal| {
            self.refuse_message(refusal, Some(&other.node));
            Unanswered
        };
        if answer.len() > ANSWER_LEN_MAX + WRAP_LEN_MAX {
            return Err(refuse(MessageRefusal::TooLong));
        }
        let opened = with_about(&self.own(), count, other, |about| self.seals.unwrap(Kind::Answer, about, &answer));
        opened.map(<[u8]>::to_vec).map_err(|refusal| refuse(refusal.into()))
    }
}

/// What the seal on an answer holds for: the question, who asked it, and who answers.
fn with_about<T>(asked: &Sender, count: u64, answers: &Sender, make: impl FnOnce(&[&str]) -> T) -> T {
    make(&[&asked.node, &asked.run, &count.to_string(), &answers.node, &answers.run])
}

/// The task that hands over what other nodes ask, and answers them.
pub(super) struct Asks {
    nodes: Arc<Nodes>,
    questions: mpsc::Sender<Question>,
}

impl Asks {
    pub(super) fn new(nodes: Arc<Nodes>, questions: mpsc::Sender<Question>) -> Asks {
        Asks { nodes, questions }
    }

    /// Runs for ever. `lines` brings the connection when there is one.
    pub(super) async fn run(self, mut lines: watch::Receiver<Option<Line>>) {
        let line = lines.wait_for(Option::is_some).await.ok().and_then(|line| line.clone());
        let Some(line) = line else { return };
        let mut heard = loop {
            match line.hear(of_question(&self.nodes.cluster, &self.nodes.node)).await {
                Ok(heard) => break heard,
                Err(_) => sleep(RETRY).await,
            }
        };
        let mut answers = JoinSet::new();
        while let Some(message) = heard.next().await {
            while answers.try_join_next().is_some() {}
            if answers.len() >= UNDER_WAY_MAX {
                continue; // Who asks notices.
            }
            let header = |name: &str| message.header(name);
            match Heading::read(header, message.payload().len(), None, &self.nodes.own()) {
                Ok(Some(Heading { from, count, .. })) => {
                    answers.spawn(answer(
                        line.clone(),
                        self.nodes.clone(),
                        self.questions.clone(),
                        message,
                        from,
                        count,
                    ));
                }
                Ok(None) => {}
                Err(refusal) => self.nodes.refuse_message(refusal, message.header(NODE)),
            }
        }
    }
}

async fn answer(
    line: Line,
    nodes: Arc<Nodes>,
    questions: mpsc::Sender<Question>,
    message: Message,
    from: Sender,
    count: u64,
) {
    // Nowhere but where that node listens: whoever asks could else have this node write anywhere.
    let wanted = format!("{}.", of_answer(&nodes.cluster, &from.node));
    let Some(back) = message.reply().filter(|back| back.starts_with(&wanted)).map(str::to_owned) else { return };
    let proof = message.header(PROOF).unwrap_or_default().to_owned();
    let (answer, answered) = oneshot::channel();
    let asked = from.clone();
    let question = Question { from, count, proof, payload: message.payload().to_vec(), answer };
    if questions.try_send(question).is_ok()
        && let Ok(Ok(bytes)) = timeout(ANSWER_TIMEOUT, answered).await
    {
        let seal = |about: &[&str]| nodes.seals.wrap(Kind::Answer, about, &bytes);
        let sealed = with_about(&asked, count, &nodes.own(), seal);
        let _ = line.say(back, Vec::new(), sealed).await; // Who asked notices.
    }
}
