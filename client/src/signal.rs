//! The signalling socket: from the printed link to typed signals.

use futures_util::{SinkExt, StreamExt};
use proto::signal::{ClientSignal, ServerSignal};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::http::{Server, Stream};

/// Why the socket cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The link is not `http://HOST:PORT/r/ROOM?token=TOKEN`.
    #[error("{0:?} is no link to a room")]
    Link(String),
    /// The server said no; its HTTP status and the body, which names the reason.
    #[error("the server refused the socket: {status} {body}")]
    Refused {
        /// HTTP status code.
        status: u16,
        /// Body of the response.
        body: String,
    },
    /// TCP or TLS.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// WebSocket.
    #[error("the signalling socket failed: {0}")]
    WebSocket(Box<tungstenite::Error>),
    /// The server sent what `proto::signal` does not know.
    #[error("not a signal of the server: {text:?}: {error}")]
    Unknown {
        /// What was received.
        text: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

impl From<tungstenite::Error> for SignalError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => SignalError::Refused {
                status: response.status().as_u16(),
                body: response.body().as_deref().map(|body| String::from_utf8_lossy(body).into()).unwrap_or_default(),
            },
            error => SignalError::WebSocket(Box::new(error)),
        }
    }
}

/// A link to a room, as `uprtc run` prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    authority: String,
    room: String,
    token: String,
}

impl Link {
    /// Parses `http://HOST:PORT/r/ROOM?token=TOKEN`.
    pub fn parse(text: &str) -> Result<Link, SignalError> {
        let split = || {
            let (authority, path) = text.trim().strip_prefix("http://")?.split_once('/')?;
            let (room, query) = path.strip_prefix("r/")?.split_once('?')?;
            let token = query.split('&').find_map(|pair| pair.strip_prefix("token="))?;
            Some(Link { authority: authority.into(), room: room.into(), token: token.into() })
        };
        split().ok_or_else(|| SignalError::Link(text.into()))
    }

    /// The same server, another room and token.
    pub fn to_room(&self, room: &str, token: &str) -> Link {
        Link { authority: self.authority.clone(), room: room.into(), token: token.into() }
    }

    /// The same room and token at another address.
    pub fn at(&self, authority: &str) -> Link {
        Link { authority: authority.into(), ..self.clone() }
    }

    /// `HOST:PORT` of the HTTP side.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The room's name.
    pub fn room(&self) -> &str {
        &self.room
    }

    /// The server that it leads to.
    pub fn server(&self) -> Server {
        Server::plain(&self.authority)
    }
}

/// What is read at once. Each look at the socket, also one that finds nothing, zeroes so much memory, and a peer looks with each packet:
/// with the 128 KiB of the crate that was a fifth of what a hundred telephones cost.
const READ_LEN: usize = 4096;

/// An open signalling socket.
#[derive(Debug)]
pub struct Socket(WebSocketStream<Stream>);

impl Socket {
    /// Opens the socket of the link's room.
    pub async fn connect(link: &Link) -> Result<Socket, SignalError> {
        Socket::open(&link.server(), &link.room, &link.token).await
    }

    /// Opens the socket of a room.
    pub async fn open(server: &Server, room: &str, token: &str) -> Result<Socket, SignalError> {
        let (url, stream) = (socket_url(server, room, token), server.connect().await?);
        let config = WebSocketConfig::default().read_buffer_size(READ_LEN);
        let (socket, _) = client_async_with_config(url, stream, Some(config)).await?;
        Ok(Socket(socket))
    }

    /// Sends a signal.
    pub async fn send(&mut self, signal: &ClientSignal) -> Result<(), SignalError> {
        let text = serde_json::to_string(signal).expect("a signal is always JSON");
        Ok(self.0.send(Message::text(text)).await?)
    }

    /// The next signal, or None when the server closed. May be cancelled and called again.
    pub async fn next(&mut self) -> Option<Result<ServerSignal, SignalError>> {
        loop {
            let text = match self.0.next().await? {
                Ok(Message::Text(text)) => text,
                Ok(Message::Close(_)) => return None,
                Ok(_) => continue,
                Err(error) => return Some(Err(error.into())),
            };
            let signal = serde_json::from_str(&text);
            return Some(signal.map_err(|error| SignalError::Unknown { text: text.to_string(), error }));
        }
    }

    /// Closes as a browser does when the page goes: without `leave`.
    pub async fn close(mut self) {
        // The server may have gone before us.
        let _ = self.0.close(None).await;
    }
}

/// The WebSocket's handshake needs a scheme, whatever carries it.
fn socket_url(server: &Server, room: &str, token: &str) -> String {
    let scheme = if server.tls.is_some() { "wss" } else { "ws" };
    format!("{scheme}://{}{}/v1/rooms/{room}/signal?token={token}", server.authority, server.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_taken_apart() {
        let link = Link::parse("http://127.0.0.1:8080/r/demo?token=a.b-c_d&join=1\n").unwrap();
        assert_eq!((link.authority(), link.room()), ("127.0.0.1:8080", "demo"));
        let url = |link: &Link| socket_url(&link.server(), &link.room, &link.token);
        assert_eq!(url(&link), "ws://127.0.0.1:8080/v1/rooms/demo/signal?token=a.b-c_d");
        assert_eq!(url(&link.to_room("other", "t")), "ws://127.0.0.1:8080/v1/rooms/other/signal?token=t");
    }

    #[test]
    fn what_is_no_link_is_said() {
        for text in ["", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/r/demo", "https://a/r/b?token=c"] {
            assert!(Link::parse(text).is_err(), "{text}");
        }
    }
}
