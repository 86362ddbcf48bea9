//! The picture for the README: for each sink a panel, in it a group of bars for each length of train.

use std::fmt::Write;

use crate::rows::Case;
use crate::{TRAINS, Table};

/// What is drawn: the common packet of video, to as many as a large room has.
const PAYLOAD_LEN: usize = 1200;
const FAN_OUT: usize = 50;

/// Of one name in the key.
const NAME_WIDTH: f64 = 108.0;
const PANEL_WIDTH: f64 = 300.0;
const PLOT_HEIGHT: f64 = 220.0;
const MARGIN: f64 = 48.0;
const TOP: f64 = 64.0;
/// Told apart without colour vision, too, and readable on white and on black.
const COLOURS: [&str; 9] =
    ["#8a8a8a", "#0072b2", "#56b4e9", "#332288", "#009e73", "#7ccbae", "#e69f00", "#d55e00", "#cc79a7"];

/// The whole picture.
pub(crate) fn draw(machine: &str, tables: &[Table]) -> String {
    let names: Vec<&str> = tables.iter().flat_map(|table| &table.cases).flat_map(|(_, cells)| cells).fold(
        Vec::new(),
        |mut names, cell| {
            if !names.contains(&cell.row) {
                names.push(cell.row);
            }
            names
        },
    );
    let medians = tables.iter().flat_map(|table| TRAINS.map(|train| cells(table, train))).flatten();
    let most = medians.map(|cell| cell.ns[2]).fold(0.0, f64::max);
    let step = [50.0, 100.0, 200.0, 250.0, 500.0, 1000.0, 2000.0]
        .into_iter()
        .find(|step| most / step <= 6.0)
        .unwrap_or(5000.0);
    let top = (most / step).ceil() * step;

    let panels = PANEL_WIDTH * tables.len() as f64;
    let width = 2.0 * MARGIN + panels.max(NAME_WIDTH * names.len() as f64);
    let height = TOP + PLOT_HEIGHT + 78.0;
    let mut svg = String::new();
    let out = &mut svg;
    put(
        out,
        format_args!(r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" "##),
    );
    put(out, format_args!(r##"height="{height}" font-family="system-ui, sans-serif" font-size="11" fill="#222">"##));
    put(out, format_args!(r##"<rect width="{width}" height="{height}" fill="white"/>"##));
    let title = format!("CPU ns for each forwarded packet ({PAYLOAD_LEN} bytes, 1 to {FAN_OUT})");
    text(out, MARGIN, 20.0, "start", 15, &title);
    for (index, name) in names.iter().enumerate() {
        let x = MARGIN + NAME_WIDTH * index as f64;
        let colour = COLOURS[index % COLOURS.len()];
        put(out, format_args!(r##"<rect x="{x}" y="32" width="10" height="10" fill="{colour}"/>"##));
        text(out, x + 14.0, 41.0, "start", 11, name);
    }
    for line in 0..=(top / step) as usize {
        let value = step * line as f64;
        let y = TOP + PLOT_HEIGHT * (1.0 - value / top);
        let (left, right) = (MARGIN, MARGIN + panels);
        put(out, format_args!(r##"<line x1="{left}" x2="{right}" y1="{y:.1}" y2="{y:.1}" stroke="#ddd"/>"##));
        text(out, MARGIN - 6.0, y + 4.0, "end", 10, &format!("{value:.0}"));
    }
    for (index, table) in tables.iter().enumerate() {
        panel(out, MARGIN + PANEL_WIDTH * index as f64, top, table, &names);
    }
    text(out, MARGIN, height - 12.0, "start", 9, &format!("Medians; lines from quartile to quartile. {machine}"));
    svg.push_str("</svg>\n");
    svg
}

fn cells(table: &Table, train: usize) -> Vec<&crate::Cell> {
    let case = Case { payload_len: PAYLOAD_LEN, train, fan_out: FAN_OUT };
    table.cases.iter().filter(|(other, _)| *other == case).flat_map(|(_, cells)| cells).collect()
}

fn panel(out: &mut String, left: f64, top: f64, table: &Table, names: &[&str]) {
    let group = (PANEL_WIDTH - 24.0) / TRAINS.len() as f64;
    let bar = (group - 14.0) / names.len() as f64;
    let y_of = |value: f64| TOP + PLOT_HEIGHT * (1.0 - value / top);
    for (place, train) in TRAINS.into_iter().enumerate() {
        let start = left + 12.0 + group * place as f64;
        for cell in cells(table, train) {
            let index = names.iter().position(|name| *name == cell.row).unwrap_or(0);
            let (x, y) = (start + 7.0 + bar * index as f64, y_of(cell.ns[1]));
            let (tall, colour) = (TOP + PLOT_HEIGHT - y, COLOURS[index % COLOURS.len()]);
            let (wide, middle) = (bar - 1.0, x + bar / 2.0 - 0.5);
            put(
                out,
                format_args!(r##"<rect x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{tall:.1}" fill="{colour}">"##),
            );
            put(out, format_args!("<title>{}: {:.0} ns</title></rect>", cell.row, cell.ns[1]));
            let (low, high) = (y_of(cell.ns[0]), y_of(cell.ns[2]));
            put(out, format_args!(r##"<line x1="{middle:.1}" x2="{middle:.1}" y1="{low:.1}" y2="{high:.1}" "##));
            put(out, format_args!(r##"stroke="#222"/>"##));
        }
        let label = if train == 1 { "single".to_owned() } else { format!("trains of {train}") };
        text(out, start + group / 2.0, TOP + PLOT_HEIGHT + 16.0, "middle", 11, &label);
    }
    text(
        out,
        left + PANEL_WIDTH / 2.0,
        TOP + PLOT_HEIGHT + 36.0,
        "middle",
        13,
        &format!("sink: {}", table.sink.name()),
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, size: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    put(out, format_args!(r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{words}</text>"##));
}

fn put(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("a string takes everything");
    out.push('\n');
}
