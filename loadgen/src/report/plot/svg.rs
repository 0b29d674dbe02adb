//! SVG, element by element. Everything that is not ours is escaped.

use std::fmt::{self, Display, Write as _};

use super::STYLES;

/// Text made safe for HTML and SVG, inside of elements and of quoted attributes.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            char if char.is_control() && char != '\n' && char != '\t' => safe.push('\u{fffd}'),
            char => safe.push(char),
        }
    }
    safe
}

/// Where a text begins, in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing that grows.
#[derive(Debug)]
pub(super) struct Svg {
    out: String,
}

impl Svg {
    /// Of that size in its own units; the page scales it. The label is what is read out instead of it.
    pub(super) fn new(width: f64, height: f64, label: &str) -> Svg {
        let mut svg = Svg { out: String::new() };
        svg.put(format_args!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">\n",
            escaped(label)
        ));
        svg
    }

    pub(super) fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }

    pub(super) fn text(&mut self, class: &str, x: f64, y: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            escaped(text)
        ));
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.put(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>\n",
            from.0, from.1, to.0, to.1
        ));
    }

    /// A broken line through these points.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        self.put(format_args!("<path class=\"{class}\" d=\""));
        for (index, (x, y)) in points.iter().enumerate() {
            self.put(format_args!(
                "{}{x:.1} {y:.1}",
                if index == 0 { "M" } else { "L" }
            ));
        }
        self.out.push_str("\"/>\n");
    }

    /// A bar with its pattern.
    pub(super) fn bar(&mut self, style: usize, x: f64, y: f64, width: f64, height: f64) {
        let style = style % STYLES;
        self.put(format_args!(
            "<rect class=\"bar line-{style}\" fill=\"url(#pattern-{style})\" x=\"{x:.1}\" y=\"{y:.1}\" \
             width=\"{width:.1}\" height=\"{height:.1}\"/>\n"
        ));
    }

    /// The mark of a series; each has a shape of its own.
    pub(super) fn mark(&mut self, style: usize, x: f64, y: f64) {
        let style = style % STYLES;
        let shape = match style {
            0 => "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
            1 => "M-3.5 -3.5h7v7h-7z",
            2 => "M0 -4.5L4.5 3.5H-4.5z",
            3 => "M0 -5L5 0L0 5L-5 0z",
            4 => "M0 4.5L4.5 -3.5H-4.5z",
            5 => "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
            6 => "M-5 -1.5H5V1.5H-5z",
            _ => "M-1.5 -5H1.5V5H-1.5z",
        };
        self.put(format_args!(
            "<path class=\"mark mark-{style}\" transform=\"translate({x:.1} {y:.1})\" d=\"{shape}\"/>\n"
        ));
    }

    /// Begins a group that tells something when it is pointed at.
    pub(super) fn open_tip(&mut self, tip: &str) {
        self.put(format_args!("<g class=\"tip\"><title>{}</title>\n", escaped(tip)));
    }

    pub(super) fn close_tip(&mut self) {
        self.out.push_str("</g>\n");
    }

    /// An invisible place around a mark that is easier to point at than the mark.
    pub(super) fn reach(&mut self, x: f64, y: f64) {
        self.put(format_args!(
            "<circle class=\"reach\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"9\"/>\n"
        ));
    }

    fn put(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing into a string does not fail.
        let _ = self.out.write_fmt(arguments);
    }
}

/// The rules by which series get their colours and dashes, once for a whole page.
#[must_use]
pub fn series_rules() -> String {
    const DASHES: [&str; STYLES] = [
        "none",
        "7 3",
        "2 3",
        "9 3 2 3",
        "4 2",
        "12 4",
        "1 2",
        "6 2 1 2 1 2",
    ];
    let mut rules = String::new();
    for (style, dash) in DASHES.iter().enumerate() {
        let colour = format!("var(--series-{style})");
        rules.push_str(&format!(
            "svg .ground-{style}, svg .mark-{style} {{ fill: {colour}; }} svg .line-{style} {{ stroke: {colour}; }} \
             svg .dash-{style} {{ stroke-dasharray: {dash}; }}\n"
        ));
    }
    rules
}

/// The patterns of bars, once for a whole page.
#[must_use]
pub fn pattern_definitions() -> String {
    // Over a tint of the colour: nothing, then lines in one direction or another, dots, a grid.
    const STROKES: [&str; STYLES] = [
        "",
        "M0 8L8 0M-2 2L2 -2M6 10L10 6",
        "M0 0L8 8M-2 6L2 10M6 -2L10 2",
        "M0 2H8M0 6H8",
        "M2 0V8M6 0V8",
        "M2 2h1M6 6h1",
        "M0 4H8M4 0V8",
        "M0 8L8 0M0 0L8 8",
    ];
    let mut text =
        String::from("<svg class=\"definitions\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>\n");
    for (style, stroke) in STROKES.iter().enumerate() {
        text.push_str(&pattern(&style, stroke));
    }
    text.push_str("</defs></svg>\n");
    text
}

fn pattern(style: &dyn Display, stroke: &str) -> String {
    format!(
        "<pattern id=\"pattern-{style}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\">\
         <rect class=\"ground-{style}\" width=\"8\" height=\"8\"/><path class=\"hatch\" d=\"{stroke}\"/></pattern>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_is_text() {
        assert_eq!(
            escaped("<b a=\"1\" c='2'>&"),
            "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;"
        );
        assert_eq!(escaped("a\u{0}b\x1b"), "a\u{fffd}b\u{fffd}");
        let mut svg = Svg::new(10.0, 10.0, "\"><script>");
        svg.text("tick", 1.0, 2.0, Anchor::Start, "</text><script>");
        svg.open_tip("</title><script>");
        svg.close_tip();
        assert!(!svg.finish().contains("<script"));
    }
}
