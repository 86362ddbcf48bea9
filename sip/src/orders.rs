//! Calls out of rooms that the controlplane orders (`POST /v1/rooms/{room}/calls`, docs/SERVICES.md).

use client::service::{self, Task};
use serde_json::Map;
use tokio::sync::{mpsc, oneshot};

use crate::ask::{Ask, Ordered, Progress};

/// What is told of a call; it has two states.
const PROGRESS_MAX: usize = 4;

/// Waits for orders until the gateway stops or the server refuses.
pub(crate) async fn serve(settings: service::Settings, asks: mpsc::Sender<Ask>, stop: impl Future<Output = ()>) {
    let run = |task: Task| dial(task, asks.clone());
    if let Err(error) = service::serve(settings, run, stop).await {
        tracing::error!(event = "orders_refused", %error, "no calls are ordered by the server any more");
    }
}

/// Makes one call. Why it ended.
async fn dial(task: Task, asks: mpsc::Sender<Ask>) -> String {
    let order = &task.order;
    if let Err(reason) = order.has_only(&["number", "digits"]) {
        return reason;
    }
    let Some(number) = order.text("number").map(str::to_owned) else {
        return "bad_parameters: number is missing".to_owned();
    };
    let (room, digits) = (order.room.clone(), order.text("digits").unwrap_or_default().to_owned());
    let (progress, mut told) = mpsc::channel(PROGRESS_MAX);
    let (reply, replied) = oneshot::channel();
    let ordered = Ordered { token: task.token.clone(), progress };
    let _ = asks.send(Ask::Dial { room, number, digits, ordered: Some(ordered), reply }).await;
    let call = match replied.await {
        Ok(Ok(call)) => call,
        Ok(Err(reason)) => return format!("not_dialled: {reason}"),
        Err(_) => return "gateway_stops".to_owned(),
    };
    let mut stopped = std::pin::pin!(task.stopped());
    let mut is_stopping = false;
    loop {
        tokio::select! {
            news = told.recv() => match news {
                Some(Progress::Answered) => task.running(Map::from_iter([("call".to_owned(), call.into())])).await,
                Some(Progress::Ended(_)) if is_stopping => return "stopped".to_owned(),
                Some(Progress::Ended(reason)) => return reason,
                None => return "gateway_stops".to_owned(),
            },
            () = &mut stopped, if !is_stopping => {
                is_stopping = true;
                let _ = asks.send(Ask::HangUp(call)).await;
            }
        }
    }
}
