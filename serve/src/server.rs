//! HTTP/1.1 over TCP, with a limit on everything that a client decides.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::body::Body;
use crate::error::{Result, ServeError};
use crate::guard::Guarded;
use crate::mirror::Mirror;
use crate::request::Asked;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// The most bytes of the head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// How long to wait when the machine is out of descriptors: connections that end give them back.
const PAUSE: Duration = Duration::from_millis(100);

/// What clients may do to a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections there may be; further ones wait to be accepted.
    pub connections: usize,
    /// How long the head of a request may take, and a connection be idle.
    pub head: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall: Duration,
    /// How long answers may take that are under way when the server is told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            grace: Duration::from_secs(10),
        }
    }
}

/// A server that listens already.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Server {
    /// Listens on `ADDRESS:PORT`; port 0 picks a free one.
    ///
    /// # Errors
    /// [`ServeError::BadAddress`] when that is no address, [`ServeError::Listen`] when nobody can listen there.
    pub fn bind(address: &str, limits: Limits) -> Result<Self> {
        let bad = || ServeError::BadAddress {
            address: address.to_owned(),
        };
        let listen = |source| ServeError::Listen {
            address: address.to_owned(),
            source,
        };
        let (_, port) = address.rsplit_once(':').ok_or_else(bad)?;
        port.parse::<u16>().map_err(|_malformed| bad())?;
        let all: Vec<SocketAddr> = address
            .to_socket_addrs()
            .map_err(|_unknown| bad())?
            .collect();
        if all.is_empty() {
            return Err(bad());
        }
        let listener = TcpListener::bind(all.as_slice()).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self {
            listener,
            address,
            limits,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop` is there. Then nobody is accepted any more, connections without a request end, and answers under
    /// way get a last while.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub async fn run(self, mirror: Mirror, stop: impl Future<Output = ()>) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let limits = self.limits;
        let mirror = Arc::new(mirror);
        let slots = Arc::new(Semaphore::new(limits.connections));
        let (tell, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            while connections.try_join_next().is_some() {}
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot.ok(), listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = &mut stop => break,
                next = next => next,
            };
            match accepted {
                Ok((stream, from)) => {
                    tracing::debug!(%from, "a client");
                    let mirror = Arc::clone(&mirror);
                    connections.spawn(connection(stream, mirror, limits, stopping.clone(), slot));
                }
                Err(error) => {
                    tracing::debug!(%error, "a client could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        // Without connections nobody listens.
        let _nobody = tell.send(true).is_err();
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(limits.grace, all).await.is_err() {
            tracing::info!("answers under way are given up");
        }
        Ok(())
    }
}

/// Answers what comes over one connection.
async fn connection(
    stream: TcpStream,
    mirror: Arc<Mirror>,
    limits: Limits,
    mut stopping: watch::Receiver<bool>,
    _slot: Option<OwnedSemaphorePermit>,
) {
    // Small answers are written whole.
    let _slower = stream.set_nodelay(true).is_err();
    let io = TokioIo::new(Guarded::new(stream, limits.stall));
    let service = service_fn(|request| answer(Arc::clone(&mirror), request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES);
    let mut connection = pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ends");
    }
}

async fn answer(
    mirror: Arc<Mirror>,
    request: Request<Incoming>,
) -> std::result::Result<Response<Body>, Infallible> {
    // What a client sends along is not read: nothing here takes anything.
    let (parts, _body) = request.into_parts();
    let asked = Asked::read(&parts);
    let found = tokio::task::spawn_blocking(move || (mirror.answer(&asked), asked)).await;
    let response = match found {
        Ok((answer, asked)) => answer.respond(&asked),
        Err(error) => {
            tracing::error!(%error, "a request ended in a panic");
            let mut response = Response::new(Body::whole("the server fails\n"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    };
    tracing::info!(method = %parts.method, uri = %parts.uri, status = response.status().as_u16());
    Ok(response)
}
