//! Bars that lie on their side: one group for each point, one bar for each target, the figure at its end.

use super::scale::Scale;
use super::svg::{Anchor, Svg};
use crate::metric::Unit;
use crate::statistics::Spread;
use crate::units;

/// All in the drawing's own units.
const WIDTH: f64 = 560.0;
const BAR: f64 = 15.0;
const BAR_STEP: f64 = 20.0;
const GROUP_GAP: f64 = 12.0;
const GROUP_TITLE: f64 = 22.0;
const TOP: f64 = 4.0;
const AXIS: f64 = 26.0;
/// What a figure and its spread take behind the longest bar.
const FIGURES: f64 = 118.0;
/// About the width of a letter of a label.
const LETTER: f64 = 6.6;
/// Longer names are cut.
const NAME_LETTERS: usize = 24;

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What is written before it.
    pub name: String,
    /// Its colour and pattern.
    pub style: usize,
    /// Its length is the median; a line shows smallest and largest.
    pub spread: Spread,
    /// Marked: see the page's warnings.
    pub has_warning: bool,
}

/// Bars that are compared.
#[derive(Debug, Clone)]
pub struct BarGroup {
    /// What is written above; empty if there is only one.
    pub title: String,
    /// In order.
    pub bars: Vec<Bar>,
}

/// A drawing.
#[derive(Debug, Clone)]
pub struct BarPlot {
    /// What is read out in its place.
    pub label: String,
    /// Of all figures.
    pub unit: Unit,
    /// In order.
    pub groups: Vec<BarGroup>,
}

impl BarPlot {
    /// Whether lengths show factors, not differences; the page has to say so.
    #[must_use]
    pub fn is_log(&self) -> bool {
        self.scale().is_log()
    }

    /// Draws it.
    #[must_use]
    pub fn draw(&self) -> String {
        let scale = self.scale();
        let names = self
            .bars()
            .map(|bar| bar.name.chars().count().min(NAME_LETTERS))
            .max()
            .unwrap_or(0);
        let left = 12.0 + names as f64 * LETTER;
        let right = WIDTH - FIGURES;
        let x = |value: f64| left + scale.position(value) * (right - left);
        let bottom = TOP + self.groups.iter().map(height).sum::<f64>();

        let mut svg = Svg::new(WIDTH, bottom + AXIS, &self.label);
        for tick in scale.ticks() {
            let class = if tick.label.is_empty() {
                "grid fine"
            } else {
                "grid"
            };
            svg.line(class, (x(tick.value), TOP), (x(tick.value), bottom));
        }
        for tick in readable(&scale, right - left) {
            svg.text("tick", x(tick.0), bottom + 16.0, Anchor::Middle, tick.1);
        }
        let mut y = TOP;
        for group in &self.groups {
            if !group.title.is_empty() {
                svg.text("group", 0.0, y + 14.0, Anchor::Start, &group.title);
                y += GROUP_TITLE;
            }
            for bar in &group.bars {
                self.draw_bar(&mut svg, bar, y, left, &x);
                y += BAR_STEP;
            }
            y += GROUP_GAP;
        }
        svg.line("axis", (left, TOP), (left, bottom));
        svg.finish()
    }

    fn draw_bar(&self, svg: &mut Svg, bar: &Bar, y: f64, left: f64, x: &impl Fn(f64) -> f64) {
        let Spread {
            median,
            min,
            max,
            count,
            ..
        } = bar.spread;
        let figure = |value: f64| units::figure(self.unit, value);
        let middle = y + BAR / 2.0;
        svg.open_tip(&format!(
            "{}: {} (median of {count}; {} to {})",
            bar.name,
            figure(median),
            figure(min),
            figure(max)
        ));
        svg.text(
            "name",
            left - 6.0,
            middle + 4.0,
            Anchor::End,
            &shortened(&bar.name),
        );
        svg.bar(bar.style, left, y, (x(median) - left).max(1.0), BAR);
        if count > 1 {
            svg.line("whisker", (x(min), middle), (x(max), middle));
            svg.line("whisker", (x(min), middle - 3.5), (x(min), middle + 3.5));
            svg.line("whisker", (x(max), middle - 3.5), (x(max), middle + 3.5));
        }
        let spread = if count > 1 {
            format!("  {}", units::spread(bar.spread.relative()))
        } else {
            String::new()
        };
        let warning = if bar.has_warning { "  ⚠" } else { "" };
        let end = if count > 1 { x(max.max(median)) } else { x(median) };
        svg.text(
            "figure",
            end + 6.0,
            middle + 4.0,
            Anchor::Start,
            &format!("{}{spread}{warning}", figure(median)),
        );
        svg.close_tip();
    }

    fn scale(&self) -> Scale {
        let ends: Vec<f64> = self
            .bars()
            .flat_map(|bar| [bar.spread.min, bar.spread.max])
            .collect();
        Scale::fitting(&ends, self.unit)
    }

    fn bars(&self) -> impl Iterator<Item = &Bar> {
        self.groups.iter().flat_map(|group| &group.bars)
    }
}

fn height(group: &BarGroup) -> f64 {
    let title = if group.title.is_empty() { 0.0 } else { GROUP_TITLE };
    title + group.bars.len() as f64 * BAR_STEP + GROUP_GAP
}

/// The labels of the grid that have room: a label that would touch the one before is left out.
pub(super) fn readable(scale: &Scale, length: f64) -> Vec<(f64, &str)> {
    let mut labels: Vec<(f64, &str)> = Vec::new();
    let mut free_from = f64::MIN;
    for tick in scale.ticks().iter().filter(|tick| !tick.label.is_empty()) {
        let half = (tick.label.chars().count() as f64 * LETTER + 8.0) / 2.0;
        let at = scale.position(tick.value) * length;
        if at - half >= free_from {
            labels.push((tick.value, &tick.label));
            free_from = at + half;
        }
    }
    labels
}

/// A name that has room.
pub(super) fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_LETTERS {
        return name.to_owned();
    }
    let kept: String = name.chars().take(NAME_LETTERS - 1).collect();
    format!("{kept}…")
}
