//! A house of real processes: the binary as coordinator and workers, on a folder of its own, with faults at hand.

pub(crate) mod audit;
pub(crate) mod disk;
pub(crate) mod ledger;
pub(crate) mod proxy;
pub(crate) mod witness;

use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::dice::Dice;
use anyhow::{Context as _, Result, bail, ensure};
use ledger::Ledger;

/// Nothing that is waited for takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Leases and beats short enough for a test.
const FLAGS: &[(&str, &str)] =
    &[("--lease", "1500ms"), ("--heartbeat", "100ms"), ("--outage-grace", "2s"), ("--min-free", "1MiB")];

/// Runs a row's asynchronous part.
pub(crate) fn block_on<T>(row: impl Future<Output = T>) -> Result<T> {
    let runtime = runtime()?;
    let done = runtime.block_on(row);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(done)
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// A home of its own for everything that the program keeps.
pub(crate) struct House {
    home: tempfile::TempDir,
    pub(crate) data: PathBuf,
    listen: SocketAddr,
    flags: Vec<String>,
    /// Set for every process that starts from now on.
    pub(crate) environment: Vec<(String, String)>,
}

impl House {
    /// Nothing runs yet. `flags` are the coordinator's, instead of the usual ones of these names.
    pub(crate) fn new(dice: &mut Dice, flags: &[(&str, &str)]) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let data = home.path().join("data");
        let usual = FLAGS.iter().filter(|usual| flags.iter().all(|flag| flag.0 != usual.0));
        let flags = usual.chain(flags).flat_map(|flag| [flag.0.to_owned(), flag.1.to_owned()]).collect();
        Ok(Self { data, home, listen: free_port(dice)?, flags, environment: Vec::new() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Where the coordinator listens.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kapell"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).env("HOME", self.home.path());
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_CACHE_HOME").env_remove("RUST_LOG");
        command.env("KAPELL_COORDINATOR", self.url()).env("KAPELL_CORPUS_DIR", self.path("corpora"));
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Starts a process whose log goes to the end of `LOG.log`.
    fn start(&self, mut command: Command, log: &str) -> Result<Process> {
        let path = self.path(&format!("{log}.log"));
        let file = std::fs::File::options().create(true).append(true).open(&path)?;
        Ok(Process { child: command.stderr(file).spawn()?, log: path })
    }

    /// Starts a coordinator on the folder and does not wait for it.
    pub(crate) fn spawn_coordinator(&self) -> Result<Process> {
        let (data, listen) = (self.data.to_string_lossy().into_owned(), self.listen.to_string());
        let mut args = vec!["coordinator", "--data-dir", &data, "--listen", &listen, "--json"];
        args.extend(self.flags.iter().map(String::as_str));
        self.start(self.command(&args), "coordinator")
    }

    /// Starts a coordinator on the folder, and waits until it listens.
    pub(crate) async fn coordinator(&self) -> Result<Process> {
        let mut process = self.spawn_coordinator()?;
        let begun = Instant::now();
        while TcpStream::connect(self.listen).is_err() {
            ensure!(process.lives()?, "the coordinator ended at its start:\n{}", process.last_words());
            ensure!(begun.elapsed() < PATIENCE, "the coordinator does not listen");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(process)
    }
}

impl House {
    /// Starts a worker with one slot that finds its coordinator at `url`.
    pub(crate) fn worker(&self, name: &str, url: &str, flags: &[&str]) -> Result<Process> {
        let cache = self.cache(name).to_string_lossy().into_owned();
        let args = ["worker", "--name", name, "--slots", "1", "--cores", "1", "--cache-dir", &cache];
        let mut command = self.command(&[&args, flags].concat());
        command.env("KAPELL_COORDINATOR", url);
        self.start(command, name)
    }

    /// Where a worker keeps what it has not sent yet.
    pub(crate) fn cache(&self, worker: &str) -> PathBuf {
        self.path(&format!("cache-{worker}"))
    }

    /// What a process has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Runs a command to its end, and gives what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).stdout(Stdio::piped()).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "kapell {}: {}: {text}", args.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Creates a study that real workers train, on the corpus that needs no network. Notes it in the ledger.
    pub(crate) fn create(&self, ledger: &Ledger, study: &Training<'_>) -> Result<()> {
        let file = self.path(&format!("{}.toml", study.name));
        std::fs::write(&file, study.toml())?;
        self.run(&["study", "create", &file.to_string_lossy()])?;
        ledger.open().studies.insert(study.name.to_owned(), study.trials);
        Ok(())
    }
}

/// A study that a machine trains in seconds.
pub(crate) struct Training<'a> {
    pub(crate) name: &'a str,
    pub(crate) trials: u64,
    pub(crate) hidden: u64,
    pub(crate) epochs: u64,
}

impl Training<'_> {
    fn toml(&self) -> String {
        let Self { name, trials, hidden, epochs } = self;
        format!(
            "name = \"{name}\"\ncorpus = \"exercises\"\nreplicates = {trials}\n\
             retry = {{ max_lost = 1000000 }}\ncheckpoint = {{ every = \"1s\" }}\n[space]\nhidden = [{hidden}]\n\
             [train]\nlayers = 1\nembedding = 8\nseq_len = 32\nepochs = {epochs}\n"
        )
    }
}

/// A process that ends with the test.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// SIGKILL, and until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into()?).context("a process id")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    pub(crate) fn lives(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Its exit code, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Tells it to leave, and waits until it has.
    pub(crate) async fn leave(mut self) -> Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        while self.lives()? {
            ensure!(begun.elapsed() < PATIENCE, "a process does not leave");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Its largest resident memory in KiB since it started, or since [`Process::forget_peak`].
    pub(crate) fn peak_kib(&self) -> Result<u64> {
        memory_kib(&self.child.id().to_string(), "VmHWM:")
    }

    /// Has the peak begin anew. Gives the memory in KiB that it begins with.
    pub(crate) fn forget_peak(&self) -> Result<u64> {
        forget_peak(&self.child.id().to_string())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        tail(&self.log)
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}

/// Builds a library for LD_PRELOAD from its C source; none without a compiler.
pub(crate) fn preloaded(folder: &Path, source: &Path) -> Result<Option<PathBuf>> {
    let library = folder.join("preloaded.so");
    let mut cc = Command::new("cc");
    let built = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
    match built {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        built => {
            let built = built?;
            ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            Ok(Some(library))
        }
    }
}

/// A free port below those that the kernel gives to connections: a client that tries again and again to reach a
/// coordinator that is away could otherwise meet itself there.
fn free_port(dice: &mut Dice) -> Result<SocketAddr> {
    for _ in 0..200 {
        let port = u16::try_from(dice.from(20_000..32_000))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port between 20000 and 32000")
}

/// A line of /proc/PID/status, in KiB.
pub(crate) fn memory_kib(pid: &str, line: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status.lines().find_map(|l| l.strip_prefix(line)).context("no such line")?;
    Ok(found.trim().trim_end_matches(" kB").parse()?)
}

/// See proc(5), clear_refs.
pub(crate) fn forget_peak(pid: &str) -> Result<u64> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    memory_kib(pid, "VmRSS:")
}
