//! What the kernel says of processes: CPU time to the microsecond, peak memory, how busy the machine is.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail};

/// CPU time (user and system) of a living process, all its threads, also those that ended.
pub fn cpu(pid: u32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` outlives the call, which writes nothing else.
    let status = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &mut clock) };
    if status != 0 {
        bail!("process {pid} has no CPU clock (it ended?)");
    }
    read_clock(clock)
}

/// CPU time of this process.
pub fn own_cpu() -> Result<Duration> {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read_clock(clock: libc::clockid_t) -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which writes nothing else.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(std::io::Error::last_os_error()).context("reading a CPU clock");
    }
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

/// Peak resident memory of a living process in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM: the process ended")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// The program name of a process, to see that a pid means what we think (in a container it does not).
pub fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
}

/// CPU time that all processes of the machine took since its start.
pub fn machine_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq; steal and guest are not ours or counted twice.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum();
    Ok(Duration::from_millis(busy * 10))
}

pub fn terminate(pid: u32) {
    // SAFETY: no memory is involved; the pid is that of a child that was not waited for yet.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
}
