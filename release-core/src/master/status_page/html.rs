//! The page as HTML. Every text goes through [`Escaped`], whoever has chosen it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};

use super::facts::{PageGroup, PageSample, PageStatus, PageWorker};
use super::words::{Age, Bytes, Causes, Escaped};
use crate::master::journal::DeathReport;

/// Processor time of each process in percent of one processor.
pub(super) type Percents = HashMap<i32, f64>;

/// Returns the whole page around its contents.
pub(super) fn page(status: &PageStatus, contents: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n\
         <link rel=\"icon\" href=\"icon.svg\">\n<link rel=\"stylesheet\" href=\"page.css\">\n\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n\
         <script src=\"page.js\" defer></script>\n</head>\n<body>\n\
         <main id=\"live\">\n{contents}</main>\n\
         <footer><span id=\"link\"></span><a href=\"metrics\">metrics</a><a href=\"readyz\">readyz</a>\
         <a href=\"livez\">livez</a></footer>\n</body>\n</html>\n",
        title(status)
    )
}

fn title(status: &PageStatus) -> impl fmt::Display {
    let not = if status.health.not_ready.is_some() { "Not ready: " } else { "" };
    format!("{not}{}", Escaped(&status.name))
}

/// Returns what changes on the page.
pub(super) fn contents(status: &PageStatus, percents: &Percents) -> Result<String, fmt::Error> {
    let mut html = String::new();
    head(&mut html, status)?;
    tiles(&mut html, status, percents)?;
    for group in groups(status) {
        section(&mut html, group, percents)?;
    }
    deaths(&mut html, status)?;
    for group in status.groups.iter().filter(|group| group.is_own) {
        section(&mut html, group, percents)?;
    }
    Ok(html)
}

fn head(html: &mut String, status: &PageStatus) -> fmt::Result {
    write!(
        html,
        "<header data-title=\"{}\">\n<h1>{}</h1><p class=\"host\">on {}, pid {}</p>\n",
        title(status),
        Escaped(&status.name),
        Escaped(&status.host),
        status.master
    )?;
    match (&status.health.not_live, &status.health.not_ready) {
        (Some(why), _) => {
            writeln!(html, "<p class=\"verdict bad\">Not alive<span>{}</span></p>", Escaped(why))?;
        }
        (None, Some(why)) => {
            writeln!(html, "<p class=\"verdict low\">Not ready<span>{}</span></p>", Escaped(why))?;
        }
        (None, None) => html.push_str("<p class=\"verdict good\">Ready</p>\n"),
    }
    html.push_str("</header>\n");
    Ok(())
}

/// Returns the groups of the program's own.
fn groups(status: &PageStatus) -> impl Iterator<Item = &PageGroup> {
    status.groups.iter().filter(|group| !group.is_own)
}

fn tiles(html: &mut String, status: &PageStatus, percents: &Percents) -> fmt::Result {
    let (ready, size) = groups(status)
        .fold((0, 0), |(ready, size), group| (ready + group.ready, size + group.size));
    html.push_str("<div class=\"tiles\">\n");
    let named = match groups(status).count() {
        1 => "in one group".to_owned(),
        count => format!("in {count} groups"),
    };
    tile(html, "Workers ready", format_args!("{ready}<small> of {size}</small>"), &named, "")?;
    let memory = groups(status).map(|group| group.memory).sum();
    let line = sparkline(&status.samples, |sample| {
        f64::from(u32::try_from(sample.memory / 1024).unwrap_or(u32::MAX))
    });
    let master = format!("master {}", Bytes(status.master_memory));
    tile(html, "Memory", format_args!("{}", Bytes(memory)), &master, &line)?;
    let pids = groups(status).flat_map(|group| &group.workers).filter_map(|worker| worker.pid);
    let percent: f64 = pids.filter_map(|pid| percents.get(&pid)).sum();
    let line = sparkline(&status.samples, |sample| sample.processors);
    tile(html, "Processor", format_args!("{percent:.0} %"), "of one processor", &line)?;
    let mut causes = BTreeMap::new();
    for (cause, count) in groups(status).flat_map(|group| &group.restarts) {
        *causes.entry(cause.clone()).or_default() += count;
    }
    let causes: Vec<_> = causes.into_iter().collect();
    let causes = Causes(&causes);
    tile(html, "Restarts", format_args!("{}", causes.sum()), &causes.to_string(), "")?;
    let reloads = Causes(&status.reloads).to_string();
    let reloads = or_none("reloads", &reloads);
    tile(html, "Generation", format_args!("{}", status.generation), &reloads, "")?;
    let upgrades = Causes(&status.upgrades).to_string();
    let upgrades = or_none("upgrades", &upgrades);
    tile(html, "Running for", format_args!("{}", Age(status.uptime_s)), &upgrades, "")?;
    html.push_str("</div>\n");
    Ok(())
}

fn or_none(what: &str, causes: &str) -> String {
    match causes {
        "" => format!("no {what}"),
        causes => format!("{what}: {causes}"),
    }
}

/// Adds a number with its name. The notes are HTML.
fn tile(
    html: &mut String,
    name: &str,
    value: fmt::Arguments<'_>,
    note: &str,
    picture: &str,
) -> fmt::Result {
    write!(html, "<div class=\"tile\"><h2>{name}</h2><p class=\"value\">{value}</p>")?;
    if !note.is_empty() {
        write!(html, "<p class=\"note\">{note}</p>")?;
    }
    writeln!(html, "{picture}</div>")
}

/// Returns the line of a number over the last hour, above its area. The highest value is at the top.
fn sparkline(samples: &[PageSample], value: impl Fn(&PageSample) -> f64) -> String {
    const WIDTH: f64 = 100.0;
    const HEIGHT: f64 = 24.0;
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return String::new() };
    let (time, top) = (last.at - first.at, samples.iter().map(&value).fold(0.0, f64::max));
    if time <= 0.0 || top <= 0.0 {
        return String::new();
    }
    let point = |sample: &PageSample| {
        let (x, y) = ((sample.at - first.at) / time * WIDTH, (1.0 - value(sample) / top) * HEIGHT);
        format!("{x:.1},{:.1} ", y + 1.0)
    };
    let points: String = samples.iter().map(point).collect();
    format!(
        "<svg class=\"line\" viewBox=\"0 0 100 26\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <polygon points=\"0,26 {points}100,26\"/><polyline points=\"{points}\"/></svg>\
         <p class=\"span\">last {}</p>",
        Age(time)
    )
}

fn section(html: &mut String, group: &PageGroup, percents: &Percents) -> fmt::Result {
    let own = if group.is_own { " class=\"own\"" } else { "" };
    write!(html, "<section{own}>\n<h2>{}", Escaped(&group.name))?;
    if !group.program.is_empty() {
        write!(html, "<small>{}</small>", Escaped(&group.program))?;
    }
    html.push_str("</h2>\n<p class=\"sum\">");
    write!(html, "{} of {} ready, {}", group.ready, group.size, Bytes(group.memory))?;
    if let Some(most) = group.most {
        write!(html, "; at most {most} workers")?;
    }
    let (restarts, exits) = (Causes(&group.restarts), Causes(&group.exits));
    if restarts.sum() > 0 {
        write!(html, "; restarts: {restarts}")?;
    }
    if exits.sum() > restarts.sum() {
        write!(html, "; all ends: {exits}")?;
    }
    if group.failed_starts > 0 {
        write!(html, "; failed starts: {}", group.failed_starts)?;
    }
    for (listener, waiting, limit) in &group.queues {
        write!(html, "; {waiting} of {limit} connections wait at {}", Escaped(listener))?;
    }
    html.push_str(
        "</p>\n<div class=\"table workers\"><table>\n<thead><tr><th>Worker</th><th>State</th>",
    );
    html.push_str(
        "<th>Process</th><th>Generation</th><th>Age</th><th>In flight</th><th>Memory</th>",
    );
    html.push_str("<th>CPU</th><th>Restarts</th></tr></thead>\n<tbody>\n");
    let most = group.workers.iter().filter_map(|worker| worker.memory).max().unwrap_or(1);
    for worker in &group.workers {
        row(html, worker, most, percents)?;
    }
    html.push_str("</tbody>\n</table></div>\n");
    if group.size > group.workers.len() {
        writeln!(html, "<p class=\"sum\">and {} more</p>", group.size - group.workers.len())?;
    }
    html.push_str("</section>\n");
    Ok(())
}

fn row(html: &mut String, worker: &PageWorker, most: u64, percents: &Percents) -> fmt::Result {
    let tone = match worker.state.as_str() {
        "ready" => "good",
        "starting" | "draining" | "stopping" => "low",
        _ => "bad",
    };
    let state = Escaped(&worker.state);
    write!(html, "<tr><td>{}</td><td class=\"state {tone}\">{state}", worker.id)?;
    if worker.draining > 0 {
        write!(html, "<small> and {} draining</small>", worker.draining)?;
    }
    if let Some(text) = &worker.status_text {
        write!(html, "<p class=\"says\">{}</p>", Escaped(text))?;
    }
    html.push_str("</td>");
    cell(html, worker.pid)?;
    write!(html, "<td>{}</td><td>{}</td>", worker.generation, Age(worker.uptime_s))?;
    cell(html, worker.in_flight)?;
    match worker.memory {
        Some(memory) => {
            let width = memory.saturating_mul(100) / most.max(1);
            write!(
                html,
                "<td>{}<svg class=\"bar\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" \
                 aria-hidden=\"true\"><rect width=\"{width}\" height=\"4\"/></svg></td>",
                Bytes(memory)
            )?;
        }
        None => cell(html, None::<u64>)?,
    }
    let percent = worker.pid.and_then(|pid| percents.get(&pid));
    cell(html, percent.map(|percent| format!("{percent:.0} %")))?;
    writeln!(html, "<td>{}</td></tr>", worker.restarts)
}

fn cell(html: &mut String, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => write!(html, "<td>{value}</td>"),
        None => write!(html, "<td class=\"none\">–</td>"),
    }
}

fn deaths(html: &mut String, status: &PageStatus) -> fmt::Result {
    html.push_str("<section>\n<h2>Latest deaths</h2>\n");
    if status.deaths.is_empty() {
        html.push_str("<p class=\"sum\">No worker has died.</p>\n</section>\n");
        return Ok(());
    }
    html.push_str("<div class=\"table\"><table>\n<thead><tr><th>When</th><th>Worker</th>");
    html.push_str("<th>Process</th><th>Lived</th><th>End</th><th></th></tr></thead>\n<tbody>\n");
    for death in &status.deaths {
        death_row(html, death, status.at)?;
    }
    html.push_str("</tbody>\n</table></div>\n</section>\n");
    Ok(())
}

fn death_row(html: &mut String, death: &DeathReport, now: f64) -> fmt::Result {
    write!(html, "<tr><td>{} ago</td>", Age(now - death.at))?;
    write!(html, "<td>{} {}</td><td>{}</td>", Escaped(&death.group), death.worker, death.pid)?;
    cell(html, death.lived_s.map(Age))?;
    write!(html, "<td class=\"end\">{}", Escaped(&death.exit))?;
    if let Some(why) = &death.killed {
        write!(html, "<p class=\"says\">killed: {}</p>", Escaped(why))?;
    }
    if let Some(who) = &death.killed_by {
        write!(html, "<p class=\"says\">killed by {}</p>", Escaped(who))?;
    }
    for line in &death.last_lines {
        write!(html, "<p class=\"says\">{}</p>", Escaped(line))?;
    }
    let then = if death.restarted { "started again" } else { "" };
    writeln!(html, "</td><td class=\"then\">{then}</td></tr>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_are_shown_as_they_are() {
        const HOSTILE: &str = "</td><script>alert(1)</script>\" onload='x";
        let hostile = || HOSTILE.to_owned();
        let worker =
            PageWorker { state: hostile(), status_text: Some(hostile()), ..PageWorker::default() };
        let counts = vec![(hostile(), 1)];
        let group = PageGroup {
            name: hostile(),
            program: hostile(),
            size: 9,
            exits: vec![(hostile(), 2)],
            restarts: counts.clone(),
            queues: vec![(hostile(), 1, 2)],
            workers: vec![worker],
            ..PageGroup::default()
        };
        let (exit, killed, group_of_it) = (hostile(), Some(hostile()), hostile());
        let (killed_by, last_lines) = (Some(hostile()), vec![hostile()]);
        let death = DeathReport {
            exit,
            killed,
            killed_by,
            last_lines,
            group: group_of_it,
            ..DeathReport::default()
        };
        let mut status = PageStatus {
            name: hostile(),
            host: hostile(),
            groups: vec![group],
            deaths: vec![death],
            reloads: counts.clone(),
            upgrades: counts,
            ..PageStatus::default()
        };
        status.health.not_ready = Some(hostile());
        let contents = contents(&status, &Percents::default()).unwrap();
        let page = page(&status, &contents);
        assert_eq!(page.matches("<script").count(), 1, "only its own: {page}");
        assert_eq!(page.matches("onload='").count(), 0, "{page}");
        assert_eq!(page.matches("onload=&#39;").count(), 20, "{page}");
    }

    #[test]
    fn a_line_needs_two_samples() {
        let sample = |at, memory| PageSample { at, memory, processors: 0.0 };
        let line = |samples: &[_]| sparkline(samples, |sample: &PageSample| sample.memory as f64);
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[sample(0.0, 5)]), "");
        assert_eq!(line(&[sample(0.0, 0), sample(10.0, 0)]), "");
        let drawn = line(&[sample(0.0, 5), sample(10.0, 10)]);
        assert!(drawn.contains("points=\"0.0,13.0 100.0,1.0 \""), "{drawn}");
    }
}
