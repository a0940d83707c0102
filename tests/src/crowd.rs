//! Many clients of HTTP at once, in namespaces, and the servers that they meet.
//!
//! A [`Server`] says its name, and keeps a connection for as many requests as its client has; it is a thread of its caller's, or a process that can be killed.
//! [`ask`] is one client, in a thread of its caller's. Nobody asks again what failed: a request that fails is one.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// How long a connection or an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often a server looks whether it is to end.
const TURN: Duration = Duration::from_millis(50);

/// Moves this thread into a namespace.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("may enter");
}

/// A server in a namespace, until it is dropped.
#[derive(Debug)]
pub enum Server {
    /// It ends when it is told to.
    Thread(Arc<AtomicBool>, Option<JoinHandle<()>>),
    /// It is killed.
    Process(Child),
}

/// What a process that is to be a server is told: namespace, name and port.
const SERVES: &str = "OVERWEAVE_CROWD_SERVES";

impl Server {
    /// Listens, in both families.
    pub fn start(namespace: &str, name: &str, port: u16) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = channel();
        let (inside, name, over) = (namespace.to_owned(), name.to_owned(), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            enter(&inside);
            let listener = TcpListener::bind(format!("[::]:{port}")).unwrap();
            listener.set_nonblocking(true).unwrap();
            ready.send(()).unwrap();
            serve(&listener, &name, &over);
        });
        is_ready.recv().expect("the server listens");
        Self::Thread(ends, Some(thread))
    }

    /// The same as a process: this one's program, whose test of this name begins with [`serves`].
    pub fn process(test: &str, namespace: &str, name: &str, port: u16) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test])
            .env(SERVES, format!("{namespace} {name} {port}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut told = BufReader::new(child.stdout.as_mut().expect("it has one"));
        let mut line = String::new();
        while !line.contains("listens") {
            line.clear();
            let read = told.read_line(&mut line).unwrap();
            assert!(read > 0, "the server ended");
        }
        Self::Process(child)
    }
}

/// Is this process a server? It is one until it is killed, or whoever started it is gone.
pub fn serves() -> bool {
    let Ok(told) = env::var(SERVES) else {
        return false;
    };
    let [namespace, name, port] = *told.split(' ').collect::<Vec<_>>() else {
        panic!("{SERVES}: {told}");
    };
    let _server = Server::start(namespace, name, port.parse().unwrap());
    let mut told = std::io::stdout();
    writeln!(told, "listens").unwrap();
    let mut gone = Vec::new();
    std::io::stdin().read_to_end(&mut gone).unwrap();
    true
}

impl Drop for Server {
    fn drop(&mut self) {
        match self {
            Self::Thread(ends, thread) => {
                ends.store(true, Ordering::Relaxed);
                if let Some(thread) = thread.take() {
                    thread.join().unwrap_or_default();
                }
            }
            Self::Process(child) => {
                child.kill().unwrap_or_default();
                let _status = child.wait();
            }
        }
    }
}

/// With a server all its connections end.
fn serve(listener: &TcpListener, name: &str, ends: &Arc<AtomicBool>) {
    let mut served = vec![];
    let turn = Timespec::try_from(TURN).unwrap();
    while !ends.load(Ordering::Relaxed) {
        poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&turn)).unwrap();
        while let Ok((stream, _)) = listener.accept() {
            let (name, ends) = (name.to_owned(), Arc::clone(ends));
            // A client that goes in the middle says nothing any more.
            served.push(thread::spawn(move || {
                answer(&stream, &name, &ends).unwrap_or_default();
            }));
        }
        served.retain(|thread| !thread.is_finished());
    }
    for thread in served {
        thread.join().unwrap_or_default();
    }
}

fn answer(stream: &TcpStream, name: &str, ends: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TURN))?;
    let (mut asked, mut bytes) = (Vec::new(), [0; 1024]);
    while !ends.load(Ordering::Relaxed) {
        match { stream }.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => asked.extend_from_slice(&bytes[..length]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if asked.ends_with(b"\r\n\r\n") {
            asked.clear();
            let length = name.len();
            write!(
                { stream },
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"
            )?;
        }
    }
    Ok(())
}

/// A request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When its connection began.
    pub since: Instant,
    /// When it began itself.
    pub at: Instant,
    /// Who has answered over the connection before.
    pub by: Option<String>,
    /// Who answered it, or why nobody did.
    pub answer: Result<String, String>,
}

/// How a client asks.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// So often.
    pub requests: usize,
    /// So many over one connection.
    pub kept: usize,
    /// How long a connection or an answer may take.
    pub patience: Duration,
}

/// What the clients of a crowd have in common.
#[derive(Debug, Default)]
pub struct Crowd {
    ends: AtomicBool,
    answered: AtomicUsize,
}

impl Crowd {
    /// No client begins anything more.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    /// Requests answered so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    fn ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }
}

/// Asks so often, from a namespace; until the crowd ends.
pub fn ask(namespace: &str, to: SocketAddr, load: Load, crowd: &Crowd) -> Vec<Outcome> {
    enter(namespace);
    let mut told = Vec::new();
    while told.len() < load.requests && !crowd.ended() {
        let most = load.kept.min(load.requests - told.len());
        let since = Instant::now();
        let mut by = None;
        let outcome = |at, by: &Option<String>, answer| Outcome {
            since,
            at,
            by: by.clone(),
            answer,
        };
        let mut connection = match connect(to, load.patience) {
            Ok(connection) => connection,
            Err(e) => {
                told.push(outcome(since, &by, Err(format!("no connection: {e}"))));
                continue;
            }
        };
        for nth in 0..most {
            if crowd.ended() {
                break;
            }
            let at = if nth == 0 { since } else { Instant::now() };
            match once(&mut connection) {
                Ok(name) => {
                    crowd.answered.fetch_add(1, Ordering::Relaxed);
                    told.push(outcome(at, &by, Ok(name.clone())));
                    by = Some(name);
                }
                Err(e) => {
                    let why = format!("no answer to request {nth}: {e}");
                    told.push(outcome(at, &by, Err(why)));
                    break;
                }
            }
        }
    }
    told
}

/// Asks once, and waits no longer than that for a connection, and for an answer.
///
/// # Errors
/// When there is neither.
pub fn ask_within(namespace: &str, to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    enter(namespace);
    once(&mut connect(to, patience)?)
}

fn connect(to: SocketAddr, patience: Duration) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn once(connection: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    connection
        .get_mut()
        .write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")?;
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(said) = line.trim().strip_prefix("Content-Length: ") {
            length = said.parse().map_err(std::io::Error::other)?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    String::from_utf8(body).map_err(std::io::Error::other)
}
