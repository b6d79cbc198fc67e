//! The rows as lines of JSON, as a picture and as the tables of docs/PERFORMANCE.md.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::candidates::is_of_library;
use crate::cells::AnyError;
use crate::compare::{HEAD, Row};

const PAGE: &str = "PERFORMANCE.md";
const PICTURE: &str = "pictures/calls.svg";
const LINES: &str = "pictures/calls.jsonl";

/// What is between them is written by this program.
const BEGIN: &str = "<!-- calls: written by `cargo bench --bench calls -- --page` -->\n";
const END: &str = "<!-- end of calls -->\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).join(name)
}

/// The rows of an earlier run.
pub(crate) fn read(lines: &str) -> Result<Vec<Row>, AnyError> {
    let text = fs::read_to_string(lines)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Writes all three.
pub(crate) fn write(rows: &[Row]) -> Result<(), AnyError> {
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    fs::write(path(LINES), lines.join("\n") + "\n")?;
    fs::write(path(PICTURE), picture(rows)?)?;
    let page = fs::read_to_string(path(PAGE))?;
    let missing = || format!("docs/{PAGE} has no place for the tables");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    fs::write(path(PAGE), [before, BEGIN, &tables(rows)?, END, after].concat())?;
    Ok(())
}

/// The rows of each cell.
fn cells(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    rows.chunk_by(|one, other| one.cell == other.cell)
}

fn tables(rows: &[Row]) -> Result<String, AnyError> {
    let mut text = String::new();
    for rows in cells(rows) {
        writeln!(text, "\n## {}\n\n{HEAD}", rows[0].cell)?;
        rows.iter().try_for_each(|row| writeln!(text, "{}", row.line()))?;
    }
    text.push('\n');
    Ok(text)
}

const WIDTH: f64 = 960.0;

/// Where the bars begin, and how long the longest is.
const LEFT: f64 = 190.0;
const LONGEST: f64 = 640.0;

/// The height of a row, and of the title of a cell with the room before it.
const ROW: f64 = 20.0;
const TITLE: f64 = 42.0;

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.cell { font-weight: bold }
.note { fill: #57606a }
.page { fill: #ffffff }
.own { fill: #4f83c4 }
.other { fill: #b1bac4 }
.floor { stroke: #57606a; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.note { fill: #9da7b3 }
.page { fill: #0d1117 }
.other { fill: #57606a }
.floor { stroke: #9da7b3 }
}
</style>";

/// A cell below the other, with two bars for each candidate: the rate, and the processor time.
fn picture(rows: &[Row]) -> Result<String, AnyError> {
    let count = |rows: &[Row]| rows.iter().map(|_| ROW).sum::<f64>();
    let height = cells(rows).map(|rows| TITLE + count(rows)).sum::<f64>() + TITLE;
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-labelledby=\"title\">\n\
         <title id=\"title\">Calls beside the blocking floor: the longer, the faster</title>\n{STYLE}\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n\
         <text class=\"note\" x=\"{LEFT}\" y=\"24\">wide bar: messages a second; narrow bar: messages \
         per processor time; 1 is the blocking floor</text>"
    )?;
    let mut top = TITLE;
    for rows in cells(rows) {
        writeln!(
            svg,
            "<text x=\"12\" y=\"{}\" class=\"cell\">{}</text>",
            top + 22.0,
            escaped(&rows[0].cell)
        )?;
        top += TITLE - 10.0;
        let ratios = rows.iter().flat_map(|row| [row.rate_ratio, row.processor_ratio]);
        let scale = LONGEST / ratios.fold(1.0, f64::max);
        for row in rows {
            bars(&mut svg, row, top, scale)?;
            top += ROW;
        }
        writeln!(
            svg,
            "<path d=\"M{0:.1} {1}V{2}\" class=\"floor\"/>",
            LEFT + scale,
            top - count(rows),
            top
        )?;
        top += 10.0;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn bars(svg: &mut String, row: &Row, top: f64, scale: f64) -> Result<(), AnyError> {
    let class = if is_of_library(&row.candidate) { "own" } else { "other" };
    let (rate, processor) = (row.rate_ratio * scale, row.processor_ratio * scale);
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{LEFT}\" y=\"{}\" width=\"{rate:.1}\" height=\"9\" class=\"{class}\"/>\
         <rect x=\"{LEFT}\" y=\"{}\" width=\"{processor:.1}\" height=\"4\" class=\"{class}\"/>\
         <text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
        LEFT - 8.0,
        top + 13.0,
        escaped(&row.candidate),
        top + 2.0,
        top + 12.0,
        LEFT + rate.max(processor) + 6.0,
        top + 13.0,
        row.rate_ratio,
    )?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
