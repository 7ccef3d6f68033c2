//! Systems without `/proc`: what a library can tell of them, under the same names. It does not tell apart what a
//! processor is busy with, what kind of memory is in use, or what processes wait for.

use sysinfo::{Disks, Networks, ProcessRefreshKind, ProcessesToUpdate, System};

use super::{Fields, percent, system};
use crate::proto::metric::{FieldValue, Metric};

/// The library's picture of the system.
pub(super) struct Portable {
    system: System,
    disks: Disks,
    networks: Networks,
}

impl Portable {
    /// Takes the first reading, or `None` if the library does not know this system.
    pub(super) fn open() -> Option<Self> {
        let mut system = System::new().ok()?;
        system.refresh_cpu_all();
        Some(Self { system, disks: Disks::new().ok()?, networks: Networks::new().ok()? })
    }

    /// Everything since the reading before.
    pub(super) fn metrics(&mut self) -> Vec<Metric<'static>> {
        self.system.refresh_cpu_all();
        self.system.refresh_memory();
        self.disks.refresh(true);
        self.networks.refresh(true);
        let mut metrics = self.processors();
        metrics.push(self.memory());
        metrics.extend(self.load());
        metrics.extend(System::uptime().ok().into_iter().flat_map(system::uptime_metrics));
        metrics.extend(self.disks.iter().map(disk));
        metrics.extend(self.networks.iter().map(|(name, network)| net(&name.to_string_lossy(), network)));
        metrics.push(self.processes());
        metrics
    }

    fn processors(&self) -> Vec<Metric<'static>> {
        let usage = |name: &str, active: f32| {
            let active = f64::from(active);
            let fields = vec![
                ("usage_active", FieldValue::Float(active)),
                ("usage_idle", FieldValue::Float(100.0 - active)),
            ];
            super::metric("cpu", &[("cpu", name)], fields)
        };
        let each = self.system.cpus().iter().enumerate();
        each.map(|(at, cpu)| usage(&format!("cpu{at}"), cpu.usage()))
            .chain([usage("cpu-total", self.system.global_cpu_usage())])
            .collect()
    }

    fn memory(&self) -> Metric<'static> {
        let total = self.system.total_memory();
        let available = self.system.available_memory();
        let used = total.saturating_sub(available);
        let fields = vec![
            ("available", FieldValue::Unsigned(available)),
            ("available_percent", percent(available, total)),
            ("free", FieldValue::Unsigned(self.system.free_memory())),
            ("swap_free", FieldValue::Unsigned(self.system.free_swap())),
            ("swap_total", FieldValue::Unsigned(self.system.total_swap())),
            ("total", FieldValue::Unsigned(total)),
            ("used", FieldValue::Unsigned(used)),
            ("used_percent", percent(used, total)),
        ];
        super::metric("mem", &[], fields)
    }

    fn load(&self) -> Option<Metric<'static>> {
        let load = System::load_average().ok()?;
        let processors = self.system.cpus().len();
        let physical = System::physical_core_count().unwrap_or(processors);
        Some(system::load_metric([load.one, load.five, load.fifteen], processors, physical))
    }

    fn processes(&mut self) -> Metric<'static> {
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, ProcessRefreshKind::nothing());
        let total = self.system.processes().len() as i64;
        super::metric("processes", &[], vec![("total", FieldValue::Integer(total))])
    }
}

fn disk(disk: &sysinfo::Disk) -> Metric<'static> {
    let (total, free) = (disk.total_space(), disk.available_space());
    let used = total.saturating_sub(free);
    let tags = [
        ("device", &*disk.name().to_string_lossy()),
        ("fstype", &disk.file_system().to_string_lossy()),
        ("mode", if disk.is_read_only() { "ro" } else { "rw" }),
        ("path", &disk.mount_point().to_string_lossy()),
    ];
    let fields = vec![
        ("free", FieldValue::Unsigned(free)),
        ("total", FieldValue::Unsigned(total)),
        ("used", FieldValue::Unsigned(used)),
        ("used_percent", percent(used, total)),
    ];
    super::metric("disk", &tags, fields)
}

fn net(name: &str, network: &sysinfo::NetworkData) -> Metric<'static> {
    let fields: Fields = [
        ("bytes_recv", network.total_received()),
        ("bytes_sent", network.total_transmitted()),
        ("err_in", network.total_errors_on_received()),
        ("err_out", network.total_errors_on_transmitted()),
        ("packets_recv", network.total_packets_received()),
        ("packets_sent", network.total_packets_transmitted()),
    ]
    .map(|(field, count)| (field, FieldValue::Unsigned(count)))
    .into();
    super::metric("net", &[("interface", name)], fields)
}
