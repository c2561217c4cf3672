//! A private MongoDB replica set of one member, for tests that kill or trouble it.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
};

use mongodb::bson::{Document, doc};

use super::{eventually, ports, services, when};

pub struct MongodServer {
    program: String,
    pub port: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl MongodServer {
    /// A started replica set with fail points enabled. `None`, with a printed line, where the program is missing.
    pub async fn start() -> Option<Self> {
        // The shared set is brought up first: that may be what unpacks the program.
        tokio::task::spawn_blocking(services::shared).await.expect("the services are up");
        let Some(program) = super::var("CONTEXTD_TEST_MONGOD").or_else(|| services::program("mongod")) else {
            println!("skipped: no mongod on this machine");
            return None;
        };
        let mut server = Self { program, port: ports::free(), dir: services::scratch(), child: None };
        server.restart();
        let admin = server.admin().await;
        let config = doc! {
            "_id": "rs0", "members": [{ "_id": 0, "host": format!("127.0.0.1:{}", server.port) }],
            // A restarted member elects itself at once.
            "settings": { "electionTimeoutMillis": 1000 },
        };
        eventually("the replica set is initiated", || async {
            match admin.run_command(doc! { "replSetInitiate": config.clone() }).await {
                Ok(_) => Some(()),
                Err(e) => when(e.to_string().contains("AlreadyInitialized")),
            }
        })
        .await;
        server.is_primary().await;
        Some(server)
    }

    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", self.port)
    }

    pub fn restart(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log file");
        let mut command = Command::new(&self.program);
        command.args(["--replSet", "rs0", "--bind_ip", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--setParameter", "enableTestCommands=1", "--wiredTigerCacheSizeGB", "0.25"]);
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false", "--nounixsocket"]);
        command.arg("--dbpath").arg(self.dir.path());
        self.child =
            Some(command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().expect("mongod starts"));
    }

    /// Waits until it takes writes.
    pub async fn is_primary(&self) {
        let admin = self.admin().await;
        eventually("mongod is primary", || async {
            let hello = admin.run_command(doc! { "hello": 1 }).await.ok()?;
            when(hello.get_bool("isWritablePrimary").unwrap_or(false))
        })
        .await;
    }

    /// Steps down at once, and is elected again after a second or two.
    pub async fn step_down(&self) {
        // It closes connections, this one maybe among them.
        let _ = self.admin().await.run_command(doc! { "replSetStepDown": 1, "force": true }).await;
    }

    async fn admin(&self) -> mongodb::Database {
        let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=2000", self.port);
        mongodb::Client::with_uri_str(uri).await.expect("the URI is valid").database("admin")
    }

    /// Turns the fail point `failCommand` on, in the words of MongoDB: `mode` and `data`.
    pub async fn fail_command(&self, mode: impl Into<mongodb::bson::Bson>, data: Document) {
        let command = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        self.admin().await.run_command(command).await.expect("fail points are enabled");
    }

    /// Changes parameters of the running server.
    pub async fn set_parameter(&self, parameters: Document) {
        let mut command = doc! { "setParameter": 1 };
        command.extend(parameters);
        self.admin().await.run_command(command).await.expect("the parameter can be set");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for MongodServer {
    fn drop(&mut self) {
        self.kill();
    }
}
