//! How does the listener treat a connection?

use super::*;

#[tokio::test]
async fn a_listener_answers_cuts_off_slow_heads_and_drains() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cloud = Cloud::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let limits = Limits {
        header: std::time::Duration::from_millis(200),
        ..Limits::default()
    };
    let shutdown = async {
        drop(stopped.await);
    };
    let server = tokio::spawn(serve(
        listener,
        cloud.router.clone(),
        None,
        limits,
        shutdown,
    ));
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = "GET /v2.0/networks.json?name=x HTTP/1.1\r\nhost: x\r\nx-auth-token: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"networks\":[]}"),
        "{answer}"
    );
    let mut slow = tokio::net::TcpStream::connect(addr).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    stop.send(()).unwrap();
    server.await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
