//! Lines over two axes, each with its mark, its dashes and its name at the end.

use super::STYLES;
use super::bars::{readable, shortened};
use super::scale::Scale;
use super::svg::{Anchor, Svg};

/// All in the drawing's own units.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;
const LETTER: f64 = 6.6;
/// Names at the ends of lines stay so far apart.
const NAME_STEP: f64 = 14.0;

/// A point of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct LinePoint {
    /// Along the x axis.
    pub x: f64,
    /// Along the y axis.
    pub y: f64,
    /// Smallest and largest y, if it is the middle of several.
    pub range: Option<(f64, f64)>,
    /// What it tells when it is pointed at. Points without it are drawn without a mark.
    pub tip: Option<String>,
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What is written at its end.
    pub name: String,
    /// Its colour, mark and dashes.
    pub style: usize,
    /// In order of x.
    pub points: Vec<LinePoint>,
}

/// A drawing.
#[derive(Debug, Clone)]
pub struct LinePlot {
    /// What is read out in its place.
    pub label: String,
    /// The horizontal axis.
    pub x: Scale,
    /// What it shows.
    pub x_label: String,
    /// The vertical axis.
    pub y: Scale,
    /// What it shows.
    pub y_label: String,
    /// The lines.
    pub series: Vec<Series>,
}

impl LinePlot {
    /// Draws it.
    #[must_use]
    pub fn draw(&self) -> String {
        let names = self
            .series
            .iter()
            .map(|series| shortened(&series.name).chars().count())
            .max()
            .unwrap_or(0);
        let right = WIDTH - 22.0 - names as f64 * LETTER;
        let bottom = HEIGHT - BOTTOM;
        let place = |x: f64, y: f64| {
            (
                LEFT + self.x.position(x) * (right - LEFT),
                bottom - self.y.position(y) * (bottom - TOP),
            )
        };
        let mut svg = Svg::new(WIDTH, HEIGHT, &self.label);
        self.draw_axes(&mut svg, right, bottom);
        for series in &self.series {
            let style = series.style % STYLES;
            let points: Vec<(f64, f64)> = series
                .points
                .iter()
                .map(|point| place(point.x, point.y))
                .collect();
            if points.len() > 1 {
                svg.path(&format!("line line-{style} dash-{style}"), &points);
            }
        }
        for series in &self.series {
            for point in &series.points {
                let Some(tip) = &point.tip else { continue };
                let (x, y) = place(point.x, point.y);
                svg.open_tip(tip);
                if let Some((low, high)) = point.range {
                    let (low, high) = (place(point.x, low).1, place(point.x, high).1);
                    // A range that hides behind its mark would only be dirt.
                    if low - high > 10.0 {
                        svg.line("whisker", (x, low), (x, high));
                        svg.line("whisker", (x - 3.5, low), (x + 3.5, low));
                        svg.line("whisker", (x - 3.5, high), (x + 3.5, high));
                    }
                }
                svg.reach(x, y);
                svg.mark(series.style, x, y);
                svg.close_tip();
            }
        }
        self.draw_names(&mut svg, right, bottom, &place);
        svg.finish()
    }

    fn draw_axes(&self, svg: &mut Svg, right: f64, bottom: f64) {
        for tick in self.y.ticks() {
            let y = bottom - self.y.position(tick.value) * (bottom - TOP);
            let class = if tick.label.is_empty() {
                "grid fine"
            } else {
                "grid"
            };
            svg.line(class, (LEFT, y), (right, y));
            if !tick.label.is_empty() {
                svg.text("tick", LEFT - 6.0, y + 4.0, Anchor::End, &tick.label);
            }
        }
        for tick in self.x.ticks() {
            let x = LEFT + self.x.position(tick.value) * (right - LEFT);
            let class = if tick.label.is_empty() {
                "grid fine"
            } else {
                "grid"
            };
            svg.line(class, (x, TOP), (x, bottom));
        }
        for (value, label) in readable(&self.x, right - LEFT) {
            let x = LEFT + self.x.position(value) * (right - LEFT);
            svg.text("tick", x, bottom + 16.0, Anchor::Middle, label);
        }
        svg.line("axis", (LEFT, bottom), (right, bottom));
        svg.line("axis", (LEFT, TOP), (LEFT, bottom));
        svg.text("axis-label", 0.0, 13.0, Anchor::Start, &self.y_label);
        svg.text(
            "axis-label",
            (LEFT + right) / 2.0,
            HEIGHT - 10.0,
            Anchor::Middle,
            &self.x_label,
        );
    }

    /// Each name beside the end of its line, moved so that none covers another, with a thread to where it belongs.
    fn draw_names(&self, svg: &mut Svg, right: f64, bottom: f64, place: &impl Fn(f64, f64) -> (f64, f64)) {
        let mut ends: Vec<(&Series, (f64, f64))> = self
            .series
            .iter()
            .filter_map(|series| {
                series
                    .points
                    .last()
                    .map(|point| (series, place(point.x, point.y)))
            })
            .collect();
        ends.sort_by(|(_, (_, left)), (_, (_, right))| left.total_cmp(right));
        let wanted: Vec<f64> = ends.iter().map(|(_, (_, y))| *y).collect();
        for ((series, end), y) in ends.iter().zip(apart(&wanted, TOP, bottom)) {
            // Where the line ends beside its name, its last mark is enough.
            if right - end.0 > 4.0 || (y - end.1).abs() > 4.0 {
                svg.line("thread", (end.0 + 5.0, end.1), (right + 6.0, y));
                svg.mark(series.style, right + 9.0, y);
            }
            svg.text(
                "name",
                right + 16.0,
                y + 4.0,
                Anchor::Start,
                &shortened(&series.name),
            );
        }
    }
}

/// Rising heights moved at least [`NAME_STEP`] apart, within the plot if there is room, as near as they can be.
fn apart(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut placed: Vec<f64> = Vec::with_capacity(wanted.len());
    for &y in wanted {
        let free_from = placed.last().map_or(top, |above| above + NAME_STEP);
        placed.push(y.max(free_from));
    }
    let mut free_to = bottom;
    for y in placed.iter_mut().rev() {
        *y = y.min(free_to);
        free_to = *y - NAME_STEP;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Unit;

    #[test]
    fn names_keep_their_distance() {
        assert_eq!(apart(&[50.0, 100.0], 0.0, 200.0), [50.0, 100.0]);
        assert_eq!(apart(&[50.0, 51.0, 52.0], 0.0, 200.0), [50.0, 64.0, 78.0]);
        assert_eq!(apart(&[195.0, 199.0], 0.0, 200.0), [186.0, 200.0]);
        assert_eq!(apart(&[], 0.0, 200.0), [] as [f64; 0]);
    }

    #[test]
    fn a_plot_holds_its_points() {
        let point = |x, y| LinePoint {
            x,
            y,
            range: Some((y / 4.0, y * 4.0)),
            tip: Some(format!("{x} at {y}")),
        };
        let plot = LinePlot {
            label: "a plot".into(),
            x: Scale::linear(10.0, Unit::Count),
            x_label: "connections".into(),
            y: Scale::linear(100.0, Unit::Time),
            y_label: "time".into(),
            series: vec![Series {
                name: "a & b".into(),
                style: 9,
                points: vec![point(0.0, 10.0), point(10.0, 60.0)],
            }],
        };
        let drawn = plot.draw();
        assert!(
            drawn.contains("<title>0 at 10</title>") && drawn.contains("<title>10 at 60</title>"),
            "{drawn}"
        );
        assert!(
            drawn.contains("a &amp; b") && drawn.contains("mark-1") && drawn.contains("connections"),
            "{drawn}"
        );
        assert_eq!(drawn.matches("<g").count(), drawn.matches("</g>").count());
    }
}
