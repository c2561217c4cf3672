//! Contents in a real S3 server over HTTP, and in front of servers that misbehave.

use std::{net::SocketAddr, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{tests::TEXT, tier_tests::moved_to, *};
use crate::config::{Content as Settings, S3};

/// A server that keeps its buckets as directories of `root`.
async fn serve(root: &std::path::Path) -> SocketAddr {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single("contextd", "secret of the test"));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    address
}

/// A server that reads a request, answers `answer` and hangs up, or does not answer at all.
async fn misbehave(answer: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            match answer {
                Some(bytes) => drop(socket.write_all(bytes).await),
                None => held.push(socket),
            }
        }
    });
    address
}

fn settings(address: SocketAddr, url: &str) -> Settings {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Settings {
        s3: S3 {
            endpoint: format!("http://{address}"),
            region: "us-east-1".into(),
            access_key_id: "contextd".into(),
            secret_access_key: "secret of the test".into(),
            allow_http: true,
        },
        ..super::tests::settings(url)
    }
}

fn open(settings: &Settings) -> Content {
    Content::new(settings, None).unwrap()
}

#[tokio::test]
async fn contents_come_back_from_s3() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("contents")).unwrap();
    let address = serve(dir.path()).await;
    let content = open(&settings(address, "s3://contents/some/prefix"));
    content.objects(Tier::Hot).check().await.unwrap();
    // Ids that need encoding, twice over: in the key, and in the address of the request.
    let first = key::version("user/1 ä", "a+b=c&d", "v%1");
    let first = content.save_version(&first, TEXT.as_bytes(), None, Sealing::Off).await.unwrap();
    let edited = TEXT.replace("trees", "parks");
    let second = key::version("user/1 ä", "a+b=c&d", "v%2");
    let second = content.save_version(&second, edited.as_bytes(), Some(("v1", &first)), Sealing::Off).await.unwrap();
    assert_eq!(second.codec, Codec::ZstdDelta);
    assert_eq!(content.load(&second, Some(&first)).await.unwrap(), edited.as_bytes());
    let mut listed = content.objects(Tier::Hot).list("versions/user%2F1%20%C3%A4").await.unwrap();
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(
        listed.iter().map(|l| (l.key.as_str(), l.size)).collect::<Vec<_>>(),
        [(&*first.key, first.stored), (&*second.key, second.stored)]
    );
    let given = content.give(&first, "user 2").await.unwrap();
    content.delete(&first).await.unwrap();
    content.delete(&first).await.unwrap();
    assert_eq!(content.load(&given, None).await.unwrap(), TEXT.as_bytes());
    assert_eq!(content.load(&first, None).await.unwrap_err().kind, FaultKind::Missing);
    assert!(dir.path().join("contents/some/prefix").is_dir(), "the prefix of the address is used");
    // What the server holds is changed behind its back.
    std::fs::write(dir.path().join("contents/some/prefix").join(&given.key), "x").unwrap();
    let fault = content.load(&given, None).await.unwrap_err();
    assert!(fault.kind == FaultKind::Corrupt && fault.message.contains(&given.hash), "{fault}");
}

#[tokio::test]
async fn what_was_created_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("contents")).unwrap();
    let address = serve(dir.path()).await;
    for url in ["s3://contents/prefix", dir.path().join("objects").to_str().unwrap()] {
        let archive_url = dir.path().join("archive").display().to_string();
        let content = open(&Settings { archive_url, ..settings(address, url) });
        let objects = content.objects(Tier::Hot);
        assert!(objects.create("anchors/a", b"first".to_vec()).await.unwrap());
        assert!(!objects.create("anchors/a", b"second".to_vec()).await.unwrap());
        assert_eq!(objects.get("anchors/a", 100).await.unwrap().as_ref(), b"first");
        let listed: Vec<String> = objects.list("anchors").await.unwrap().into_iter().map(|l| l.key).collect();
        assert_eq!(listed, ["anchors/a"], "nothing else was left behind");
    }
}

#[tokio::test]
async fn archived_contents_come_back_from_a_bucket_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    for bucket in ["contents", "archive"] {
        std::fs::create_dir(dir.path().join(bucket)).unwrap();
    }
    let hot = settings(serve(dir.path()).await, "s3://contents/some/prefix");
    let content = open(&Settings { archive_url: "s3://archive".into(), ..hot });
    content.objects(Tier::Archive).check().await.unwrap();
    let prefix = |id| key::version("user/1 ä", "d", id);
    let base = content.save_version(&prefix("v1"), TEXT.as_bytes(), None, Sealing::Off).await.unwrap();
    let edited = TEXT.replace("trees", "parks");
    let delta =
        content.save_version(&prefix("v2"), edited.as_bytes(), Some(("v1", &base)), Sealing::Off).await.unwrap();
    let archived = moved_to(&content, &base, Tier::Archive).await;
    assert!(dir.path().join("archive").join(&base.key).is_file(), "the same key in the other bucket");
    for base in [&base, &archived] {
        assert_eq!(content.load(&delta, Some(base)).await.unwrap(), edited.as_bytes());
        assert_eq!(content.load(base, None).await.unwrap(), TEXT.as_bytes());
        assert_eq!(content.give(base, "user 2").await.unwrap().tier, Tier::Archive);
    }
    let listed = content.objects(Tier::Archive).list("versions").await.unwrap();
    assert_eq!(listed.len(), 2, "the content and its copy: {listed:?}");
    content.delete(&archived).await.unwrap();
    assert_eq!(content.load(&archived, None).await.unwrap_err().kind, FaultKind::Missing);
}

#[tokio::test]
async fn large_contents_pass_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("contents")).unwrap();
    let content = open(&settings(serve(dir.path()).await, "s3://contents"));
    let plain: Vec<u8> = (0..3_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let saved = content.save_full(&key::document("u", "d", "t"), &plain, Sealing::Off).await.unwrap();
    assert!(content.load(&saved, None).await.unwrap() == plain);
}

#[tokio::test]
async fn wrong_settings_say_which() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("contents")).unwrap();
    let address = serve(dir.path()).await;
    // The answer of Amazon and MinIO; the server of these tests makes a missing bucket.
    let nowhere: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 49\r\nConnection: close\r\n\r\n\
        <Error>\n<Code>NoSuchBucket</Code>\n</Error>       ";
    let content = open(&settings(misbehave(Some(nowhere)).await, "s3://no-such-bucket"));
    for fault in [
        content.objects(Tier::Hot).check().await.unwrap_err(),
        content.objects(Tier::Hot).get("documents/u/d/x", 9).await.unwrap_err(),
    ] {
        assert_eq!(fault.kind, FaultKind::Configuration, "{fault}");
        assert!(fault.message.contains("the S3 bucket no-such-bucket is not there"), "{fault}");
    }
    let mut wrong = settings(address, "s3://contents");
    wrong.s3.secret_access_key = "not the secret".into();
    let fault = open(&wrong).objects(Tier::Hot).check().await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Configuration, "{fault}");
    assert!(fault.message.contains("check its permissions and `content.s3`"), "{fault}");
    assert!(!format!("{fault} {wrong:?} {:?}", open(&wrong).objects(Tier::Hot)).contains("not the secret"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_outage() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let busy: &[u8] = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let short: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\nETag: \"x\"\r\n\
        Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nConnection: close\r\n\r\nonly this";
    for (address, said) in [
        (gone, "check that it runs and can be reached"),
        (misbehave(None).await, "within 500ms"),
        (misbehave(Some(busy)).await, "check that it runs and can be reached"),
        (misbehave(Some(short)).await, "check that it runs and can be reached"),
        (misbehave(Some(b"not HTTP at all")).await, "check that it runs and can be reached"),
    ] {
        let content = open(&Settings { timeout: Duration::from_millis(500), ..settings(address, "s3://contents") });
        let fault = content.objects(Tier::Hot).get("documents/u/d/x", 1000).await.unwrap_err();
        assert!(fault.kind == FaultKind::Unavailable && fault.kind.passes(), "{fault}");
        assert!(fault.message.contains(said) && !fault.message.contains('\n'), "{fault}");
    }
    let content = open(&Settings { timeout: Duration::from_millis(500), ..settings(gone, "s3://contents") });
    let saved = content.save_full(&key::document("u", "d", "t"), b"Hello", Sealing::Off).await;
    assert_eq!(saved.unwrap_err().kind, FaultKind::Unavailable);
}
