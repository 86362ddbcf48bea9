//! The driver's HTTP: one request on one connection, with TLS or without, by hyper (docs/decisions/0025). WHIP and WHEP
//! (RFC 9725) are a request; a WebSocket begins with the same connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest response that is read, bytes. A page of peers has at most 100 KiB, the metrics of many workers a few hundred.
const RESPONSE_LEN_MAX: usize = 4 * 1024 * 1024;

/// Where a server is, and how its certificate is judged.
#[derive(Clone, Debug)]
pub struct Server {
    /// `HOST:PORT`
    pub authority: String,
    /// The name that its certificate must have.
    pub host: String,
    /// What its paths begin with, behind a proxy that gives it a part of its own.
    pub prefix: String,
    /// TLS, unless it speaks plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST` …
    pub method: &'a str,
    /// From `/` on, with the query.
    pub path: &'a str,
    /// Bearer token.
    pub token: Option<&'a str>,
    /// Media type and body.
    pub content: Option<(&'a str, &'a str)>,
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// HTTP status code.
    pub status: u16,
    /// The `Location` header: the resource that a POST has made.
    pub location: Option<String>,
    /// The body, which must be UTF-8.
    pub body: String,
}

impl Server {
    /// One that speaks plain HTTP at `HOST:PORT`.
    pub fn plain(authority: &str) -> Server {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned();
        Server { authority: authority.to_owned(), host, prefix: String::new(), tls: None }
    }

    /// Opens a connection.
    pub async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect(&self.authority).await?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// One request on a connection of its own, and no redirect. `limit` is for all of it.
    pub async fn request(&self, request: Request<'_>, limit: Duration) -> io::Result<Response> {
        let (head, body) = self.send(self.message(request)?, limit).await?;
        let location = head.headers.get(header::LOCATION).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let body = String::from_utf8(body.into()).map_err(|_| io::Error::other("the answer is not UTF-8"))?;
        Ok(Response { status: head.status.as_u16(), location, body })
    }

    /// The same of a request that is a message already, with `Host`. Its answer's body is read to the end.
    pub async fn send(
        &self,
        message: hyper::Request<Full<Bytes>>,
        limit: Duration,
    ) -> io::Result<(hyper::http::response::Parts, Bytes)> {
        let answered = timeout(limit, async { exchange(self.connect().await?, message).await }).await;
        answered.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
    }

    fn message(&self, request: Request<'_>) -> io::Result<hyper::Request<Full<Bytes>>> {
        let mut message = hyper::Request::builder()
            .method(request.method)
            .uri(format!("{}{}", self.prefix, request.path))
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "close");
        if let Some(token) = request.token {
            message = message.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((kind, _)) = request.content {
            message = message.header(header::CONTENT_TYPE, kind);
        }
        let body = request.content.map(|(_, body)| Bytes::copy_from_slice(body.as_bytes())).unwrap_or_default();
        message.body(Full::new(body)).map_err(io::Error::other)
    }
}

async fn exchange(
    stream: Stream,
    message: hyper::Request<Full<Bytes>>,
) -> io::Result<(hyper::http::response::Parts, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It carries the bytes, and ends with the request: what fails there fails here as well.
    let connection = tokio::spawn(connection);
    let answered = async {
        let (head, body) = sender.send_request(message).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, RESPONSE_LEN_MAX).collect().await.map_err(io::Error::other)?;
        Ok((head, body.to_bytes()))
    };
    let response = answered.await;
    connection.abort();
    response
}

/// A connection, with TLS or without.
#[derive(Debug)]
pub enum Stream {
    /// TCP
    Plain(TcpStream),
    /// TLS over it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes. What it was asked.
    async fn answer(listener: TcpListener, bytes: &'static [u8]) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let len = stream.read(&mut request).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        String::from_utf8_lossy(&request[..len]).into_owned()
    }

    async fn ask(bytes: &'static [u8]) -> (io::Result<Response>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::plain(&listener.local_addr().unwrap().to_string());
        let request =
            Request { method: "POST", path: "/whep/r", token: Some("t"), content: Some(("text/plain", "v=0")) };
        tokio::join!(server.request(request, Duration::from_secs(10)), answer(listener, bytes))
    }

    #[tokio::test]
    async fn a_body_in_chunks_and_the_location_are_read() {
        let (response, request) =
            ask(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\nlocation: /whep/r/x\r\n\
            transfer-encoding: chunked\r\n\r\n2\r\nv=\r\n1\r\n0\r\n0\r\n\r\n")
            .await;
        let location = Some("/whep/r/x".to_owned());
        assert_eq!(response.unwrap(), Response { status: 201, location, body: "v=0".to_owned() });
        assert!(request.starts_with("POST /whep/r HTTP/1.1\r\n") && request.ends_with("\r\n\r\nv=0"), "{request}");
        assert!(request.contains("authorization: Bearer t\r\n"), "{request}");
    }

    #[tokio::test]
    async fn what_is_not_http_is_an_error() {
        for bytes in [&b""[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"] {
            assert!(ask(bytes).await.0.is_err());
        }
    }
}
