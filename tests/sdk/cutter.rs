//! A TCP proxy that breaks the connections that go through it.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both sides see its end.
    Close,
    /// Both sides see a reset.
    Reset,
    /// Nobody sees anything; nothing is forwarded any more.
    BlackHole,
    /// The client sees its end, and the gateway nothing.
    Unnoticed,
}

/// See the module. Dropping it ends it, and all its connections.
pub(crate) struct Cutter {
    url: String,
    cuts: watch::Sender<Option<Cut>>,
    accepting: JoinHandle<()>,
}

/// Sockets that stay open, and that nobody reads.
type Parked = Arc<Mutex<Vec<TcpStream>>>;

impl Cutter {
    /// In front of a gateway at this address, `host:port`.
    pub(crate) async fn before(gateway: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("tcp://{}", listener.local_addr().expect("its address"));
        let cuts = watch::Sender::new(None);
        let cuts_there = cuts.clone();
        let parked = Parked::default();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut cuts = cuts_there.subscribe();
                cuts.mark_unchanged();
                let (gateway, parked) = (gateway.clone(), parked.clone());
                tokio::spawn(async move {
                    let Ok(gateway) = TcpStream::connect(gateway).await else {
                        return;
                    };
                    forward(client, gateway, cuts, parked).await;
                });
            }
        });
        Self { url, cuts, accepting }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Breaks the connections that there are.
    pub(crate) fn cut(&self, cut: Cut) {
        self.cuts.send_replace(Some(cut));
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    mut gateway: TcpStream,
    mut cuts: watch::Receiver<Option<Cut>>,
    parked: Parked,
) {
    let cut = tokio::select! {
        changed = cuts.changed() => match (changed, *cuts.borrow()) {
            (Ok(()), Some(cut)) => cut,
            _ => Cut::Close,
        },
        () = copy_both(&mut client, &mut gateway) => Cut::Close,
    };
    let park = |socket| parked.lock().expect("nobody panics").push(socket);
    match cut {
        Cut::Close => {}
        Cut::Reset => {
            // It may be gone by itself.
            let _ = (client.set_zero_linger(), gateway.set_zero_linger());
        }
        Cut::BlackHole => {
            park(client);
            park(gateway);
        }
        Cut::Unnoticed => park(gateway),
    }
}

/// Until one of them ends.
async fn copy_both(client: &mut TcpStream, gateway: &mut TcpStream) {
    // Small, so that cuts come within frames.
    let (mut up, mut down) = ([0; 512], [0; 512]);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_gateway, mut to_gateway) = gateway.split();
    let upwards = async {
        while let Ok(read @ 1..) = from_client.read(&mut up).await {
            if to_gateway.write_all(&up[..read]).await.is_err() {
                return;
            }
        }
    };
    let downwards = async {
        while let Ok(read @ 1..) = from_gateway.read(&mut down).await {
            if to_client.write_all(&down[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = upwards => {} () = downwards => {} }
}
