//! Sandboxes that stand still: by order, and when the node's lease lapses.

use super::*;

#[test]
fn a_frozen_sandbox_refuses_requests_and_goes_on_with_its_memory() {
    apart(|| async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let worker = Worker::new(0).await;
        let spec = actor("a", 5);
        assert_eq!(code(worker.freeze(5).await), Code::FailedPrecondition);
        worker.run(&spec).await.unwrap();
        worker.count(&spec).await;
        let mut open = tokio::net::TcpStream::connect(worker.at(&spec))
            .await
            .unwrap();
        assert_eq!(code(worker.freeze(4).await), Code::FailedPrecondition);
        worker.freeze(5).await.unwrap();
        worker.freeze(5).await.expect("may be repeated");
        let observed = worker.observe().await;
        assert_eq!((observed.state(), observed.epoch), (State::Frozen, 5));
        worker.refuses(&spec).await;
        // An open connection is kept, but nobody answers.
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        open.write_all(request).await.unwrap();
        let mut answer = String::new();
        let still = Duration::from_millis(300);
        let silent = tokio::time::timeout(still, open.read_to_string(&mut answer)).await;
        assert!(silent.is_err(), "{silent:?} {answer}");
        assert_eq!(
            code(worker.checkpoint(5, "/run/no").await),
            Code::FailedPrecondition
        );
        assert_eq!(worker.state().await, State::Frozen);

        assert_eq!(code(worker.thaw(4).await), Code::FailedPrecondition);
        worker.thaw(5).await.unwrap();
        worker.thaw(5).await.expect("may be repeated");
        assert_eq!(worker.state().await, State::Running);
        let read = tokio::time::timeout(PATIENCE, open.read_to_string(&mut answer));
        read.await.expect("it answers now").unwrap();
        assert!(answer.contains("\"memory\":2"), "{answer}");
        assert_eq!(worker.count(&spec).await["memory"], 3);
        worker.freeze(5).await.unwrap();
        worker.stop(5).await.unwrap();
        assert_eq!(worker.state().await, State::Clean);
    });
}

#[test]
fn an_executor_freezes_its_sandbox_when_the_lease_lapses() {
    apart(|| async {
        let worker = Worker::new(0).await;
        let spec = actor("a", 1);
        worker.lease(Duration::from_secs(60)).await;
        worker.run(&spec).await.unwrap();
        worker.count(&spec).await;
        worker.lease(Duration::from_millis(1)).await;
        worker.until(State::Frozen).await;
        worker.stop(1).await.unwrap();
        assert_eq!(worker.state().await, State::Clean);

        let spec = actor("a", 2);
        // What comes up too late freezes as well.
        worker.run(&spec).await.unwrap();
        worker.until(State::Frozen).await;
        worker.refuses(&spec).await;
        assert_eq!(code(worker.thaw(2).await), Code::FailedPrecondition);
        worker.lease(Duration::from_secs(60)).await;
        assert_eq!(worker.state().await, State::Frozen, "until it is thawed");
        worker.thaw(2).await.unwrap();
        assert_eq!(worker.count(&spec).await["memory"], 1);
    });
}
