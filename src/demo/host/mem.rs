//! `mem`: `/proc/meminfo`, in bytes.

use crate::proto::metric::{FieldValue, Metric};

/// Telegraf's fields and the kernel's names for them (proc_meminfo(5)).
const FIELDS: &[(&str, &str)] = &[
    ("active", "Active"),
    ("buffered", "Buffers"),
    ("commit_limit", "CommitLimit"),
    ("committed_as", "Committed_AS"),
    ("dirty", "Dirty"),
    ("free", "MemFree"),
    ("high_free", "HighFree"),
    ("high_total", "HighTotal"),
    ("huge_page_size", "Hugepagesize"),
    ("huge_pages_free", "HugePages_Free"),
    ("huge_pages_total", "HugePages_Total"),
    ("inactive", "Inactive"),
    ("low_free", "LowFree"),
    ("low_total", "LowTotal"),
    ("mapped", "Mapped"),
    ("page_tables", "PageTables"),
    ("shared", "Shmem"),
    ("slab", "Slab"),
    ("sreclaimable", "SReclaimable"),
    ("sunreclaim", "SUnreclaim"),
    ("swap_cached", "SwapCached"),
    ("swap_free", "SwapFree"),
    ("swap_total", "SwapTotal"),
    ("vmalloc_chunk", "VmallocChunk"),
    ("vmalloc_total", "VmallocTotal"),
    ("vmalloc_used", "VmallocUsed"),
    ("write_back", "Writeback"),
    ("write_back_tmp", "WritebackTmp"),
];

/// The metric, or nothing if the text is no meminfo. What a kernel does not report is 0, as in Telegraf.
pub(super) fn read(meminfo: &str) -> Option<Metric<'static>> {
    let value = |name: &str| {
        meminfo.lines().find_map(|line| {
            let mut words = line.strip_prefix(name)?.strip_prefix(':')?.split_ascii_whitespace();
            let number: u64 = words.next()?.parse().ok()?;
            // Counts of pages have no unit.
            Some(if words.next() == Some("kB") { number * 1024 } else { number })
        })
    };
    let total = value("MemTotal")?;
    // Kernels before 3.14 do not say what is available.
    let available =
        value("MemAvailable").or_else(|| Some(value("MemFree")? + value("Buffers")? + value("Cached")?))?;
    let used = total.saturating_sub(available);
    let mut fields = vec![
        ("available", FieldValue::Unsigned(available)),
        ("available_percent", super::percent(available, total)),
        // Telegraf counts reclaimable kernel memory as cache, as free(1) does.
        (
            "cached",
            FieldValue::Unsigned(
                value("Cached").unwrap_or_default() + value("SReclaimable").unwrap_or_default(),
            ),
        ),
        ("total", FieldValue::Unsigned(total)),
        ("used", FieldValue::Unsigned(used)),
        ("used_percent", super::percent(used, total)),
    ];
    fields.extend(
        FIELDS.iter().map(|(field, name)| (*field, FieldValue::Unsigned(value(name).unwrap_or_default()))),
    );
    fields.sort_by_key(|(field, _)| *field);
    Some(super::metric("mem", &[], fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::host::text;

    const MEMINFO: &str = "MemTotal:       24684092 kB\nMemFree:        24082284 kB\nMemAvailable:   18513069 kB\n\
        Buffers:            2092 kB\nCached:           255156 kB\nSwapCached:            0 kB\nActive:            37248 kB\n\
        Inactive:         220036 kB\nActive(anon):       1556 kB\nDirty:               320 kB\nShmem:              8856 kB\nSReclaimable:       1000 kB\n\
        VmallocTotal:   34359738367 kB\nHugePages_Total:       3\nHugepagesize:       2048 kB\n";

    #[test]
    fn meminfo_becomes_one_metric_in_bytes() {
        let text = text(&[read(MEMINFO).unwrap()]);
        assert_eq!(
            text,
            "mem active=38141952u,available=18957382656u,available_percent=75.0,buffered=2142208u,cached=262303744u,\
             commit_limit=0u,committed_as=0u,dirty=327680u,free=24660258816u,high_free=0u,high_total=0u,\
             huge_page_size=2097152u,huge_pages_free=0u,huge_pages_total=3u,inactive=225316864u,low_free=0u,low_total=0u,\
             mapped=0u,page_tables=0u,shared=9068544u,slab=0u,sreclaimable=1024000u,sunreclaim=0u,swap_cached=0u,swap_free=0u,\
             swap_total=0u,total=25276510208u,used=6319127552u,used_percent=25.0,vmalloc_chunk=0u,\
             vmalloc_total=35184372087808u,vmalloc_used=0u,write_back=0u,write_back_tmp=0u\n"
        );
    }

    #[test]
    fn other_text_is_no_meminfo() {
        assert_eq!(read(""), None);
        assert_eq!(read("MemTotal: many kB\n"), None);
    }
}
