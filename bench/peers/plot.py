"""A picture of the comparison, as plain SVG: no library to install, and a text that git can compare."""

from html import escape
from math import log10

WIDTH, ROW, TOP, LABELS, GAP, RIGHT = 980, 30, 64, 300, 40, 60
PANELS = 2
INK, FAINT = "#24292f", "#d0d7de"
# From light to dark: few to many clients. The edge has a colour of its own.
SHADES = ["#9db7d5", "#5b8bc0", "#2b5a8e"]
EDGE_SHADES = ["#eba898", "#d96b54", "#b23a22"]


def picture(fan_out, idle):
    """Bars for each server: CPU per delivery at each number of clients, and memory per connection."""
    counts = sorted({run["clients"] for run in fan_out.runs if run["bytes"] == 512})[: len(SHADES)]
    held = idle.asked("clients")[-1:]
    rows = []
    for peer in fan_out.peers():
        cpu = [fan_out.value(peer.name, count, 512, "cpu_us") for count in counts]
        memory = idle.value(peer.name, held[0], 512, "kib_per_connection") if held else None
        if any(cpu):
            rows.append((peer, cpu, memory))
    height = TOP + ROW * len(rows) + 30
    panel = (WIDTH - LABELS - GAP - RIGHT) / PANELS
    cpu_max = max((value for _, cpu, _ in rows for value in cpu if value), default=1)
    memory_max = max((memory for _, _, memory in rows if memory), default=1)
    parts = [head(height)]
    parts += legend(counts, held, LABELS, LABELS + panel + GAP)
    for index, (peer, cpu, memory) in enumerate(rows):
        y = TOP + ROW * index
        parts.append(name(peer, y))
        shades = EDGE_SHADES if peer.name.startswith("edge") else SHADES
        bar_height = (ROW - 6) / max(1, len(counts))
        for place, value in enumerate(cpu):
            if value:
                at = y + 3 + place * bar_height
                parts.append(bar(LABELS, at, panel * value / cpu_max, bar_height - 1, shades[place], f"{value:.2f}"))
        if memory is not None:
            # From 1 KiB on, each tenfold takes the same width: peers differ by a factor of a hundred.
            span = log10(1 + max(0, memory)) / log10(1 + memory_max)
            parts.append(bar(LABELS + panel + GAP, y + 5, panel * span, ROW - 10, shades[-1], f"{max(0, memory):.1f}", 11))
    return "\n".join([*parts, "</svg>", ""])


def head(height):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">\n<rect width="100%" height="100%" fill="#ffffff"/>'
    )


def legend(counts, held, cpu_x, memory_x):
    parts = [f'<text x="{cpu_x}" y="20" font-weight="600">µs of CPU per delivery (512 bytes)</text>']
    for place, count in enumerate(counts):
        x = cpu_x + place * 100
        parts.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{SHADES[place]}"/>')
        parts.append(f'<text x="{x + 15}" y="41">{count:,} clients</text>')
    if held:
        parts.append(f'<text x="{memory_x}" y="20" font-weight="600">KiB per idle connection, of {held[0]:,}</text>')
        parts.append(f'<text x="{memory_x}" y="41">logarithmic</text>')
    return parts


def name(peer, y):
    label = escape(peer.label.replace("*", "").replace("`", ""))
    weight = ' font-weight="600"' if peer.name.startswith("edge") else ""
    line = f'<line x1="0" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="{FAINT}" stroke-width="0.5"/>'
    # Long names are set closer rather than cut.
    fit = f' textLength="{LABELS - 16}" lengthAdjust="spacingAndGlyphs"' if len(label) > 48 else ""
    return f'{line}\n<text x="{LABELS - 8}" y="{y + ROW / 2 + 4}" text-anchor="end"{weight}{fit}>{label}</text>'


def bar(x, y, width, height, color, value, size=8):
    text_y = y + height / 2 + size * 0.36
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(1, width):.1f}" height="{height:.1f}" fill="{color}"/>\n'
        f'<text x="{x + max(1, width) + 4:.1f}" y="{text_y:.1f}" font-size="{size}">{value}</text>'
    )
