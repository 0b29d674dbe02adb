//! Tables for the terminal: columns that line up, and colours only where they are seen.

use std::env;
use std::io::IsTerminal;

/// Space between two columns.
const GAP: &str = "  ";

/// To which side a column leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// What a cell wants to be seen as. Colour never says anything that the text does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// Of weight.
    Strong,
    /// Of none.
    Faint,
    /// Good news.
    Good,
    /// Bad news.
    Bad,
    /// To be careful with.
    Warning,
}

impl Tone {
    /// The parameters of the terminal's "select graphic rendition".
    fn code(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Strong => Some("1"),
            Tone::Faint => Some("2"),
            Tone::Good => Some("32"),
            Tone::Bad => Some("1;31"),
            Tone::Warning => Some("33"),
        }
    }
}

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableCell {
    text: String,
    tone: Tone,
}

impl TableCell {
    /// Text with a tone. Control characters, which could come from a server, become visible and harmless.
    #[must_use]
    pub fn new(text: &str, tone: Tone) -> TableCell {
        TableCell {
            text: visible(text),
            tone,
        }
    }
}

impl From<&str> for TableCell {
    fn from(text: &str) -> TableCell {
        TableCell::new(text, Tone::Plain)
    }
}

impl From<String> for TableCell {
    fn from(text: String) -> TableCell {
        TableCell::new(&text, Tone::Plain)
    }
}

#[derive(Debug, Clone)]
enum Row {
    Cells(Vec<TableCell>),
    /// A line over all columns.
    Title(TableCell),
}

/// A table that is being filled.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Row>,
}

impl Table {
    /// With these columns. A column in which all cells are empty is left out when the table is drawn.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Table {
        Table {
            columns: columns
                .iter()
                .map(|(heading, align)| (visible(heading), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Appends a row; cells that are missing are empty.
    ///
    /// # Panics
    /// If there are more cells than columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = TableCell>) {
        let mut cells: Vec<TableCell> = cells.into_iter().collect();
        assert!(
            cells.len() <= self.columns.len(),
            "{} cells for {} columns",
            cells.len(),
            self.columns.len()
        );
        cells.resize(self.columns.len(), TableCell::default());
        self.rows.push(Row::Cells(cells));
    }

    /// Appends a line over all columns, and an empty one before it.
    pub fn title(&mut self, text: &str) {
        self.rows.push(Row::Title(TableCell::new(text, Tone::Strong)));
    }

    /// Draws it, a line break at the end of each line.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        let widths = self.widths();
        let mut drawn = String::new();
        let headings = self
            .columns
            .iter()
            .map(|(heading, _)| TableCell {
                text: heading.clone(),
                tone: Tone::Faint,
            })
            .collect::<Vec<_>>();
        self.line(&mut drawn, &headings, &widths, colours);
        for (index, row) in self.rows.iter().enumerate() {
            match row {
                Row::Cells(cells) => self.line(&mut drawn, cells, &widths, colours),
                Row::Title(cell) => {
                    if index > 0 {
                        drawn.push('\n');
                    }
                    paint(&mut drawn, &cell.text, cell.tone, colours);
                    drawn.push('\n');
                }
            }
        }
        drawn
    }

    /// The width of each column in characters; 0 for those that are left out.
    fn widths(&self) -> Vec<usize> {
        (0..self.columns.len())
            .map(|column| {
                let of_cells = self.rows.iter().filter_map(|row| match row {
                    Row::Cells(cells) => Some(width(&cells[column].text)),
                    Row::Title(_) => None,
                });
                let widest = of_cells.max().unwrap_or(0);
                if widest == 0 {
                    0
                } else {
                    widest.max(width(&self.columns[column].0))
                }
            })
            .collect()
    }

    fn line(&self, drawn: &mut String, cells: &[TableCell], widths: &[usize], colours: bool) {
        // Spaces are kept back until something follows: no line ends in them.
        let mut owed = 0;
        for (index, cell) in cells.iter().enumerate().filter(|(index, _)| widths[*index] > 0) {
            let padding = widths[index] - width(&cell.text);
            let (before, after) = match self.columns[index].1 {
                Align::Left => (0, padding),
                Align::Right => (padding, 0),
            };
            if cell.text.is_empty() {
                owed += before + after + GAP.len();
                continue;
            }
            drawn.extend(std::iter::repeat_n(' ', owed + before));
            paint(drawn, &cell.text, cell.tone, colours);
            owed = after + GAP.len();
        }
        drawn.push('\n');
    }
}

/// Text in a tone, if colours are wanted.
#[must_use]
pub fn painted(text: &str, tone: Tone, colours: bool) -> String {
    let mut drawn = String::new();
    paint(&mut drawn, &visible(text), tone, colours);
    drawn
}

/// Whether colours are seen there: a terminal that knows them, and a user who has not set `NO_COLOR`.
#[must_use]
pub fn colours_on(output: &impl IsTerminal) -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    output.is_terminal() && !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn paint(drawn: &mut String, text: &str, tone: Tone, colours: bool) {
    match tone.code().filter(|_| colours) {
        Some(code) => {
            drawn.push_str("\x1b[");
            drawn.push_str(code);
            drawn.push('m');
            drawn.push_str(text);
            drawn.push_str("\x1b[0m");
        }
        None => drawn.push_str(text),
    }
}

/// Columns that a text takes: all that we print is one wide. (A target may be named in wide letters; its row is then
/// out of line, which is all that happens.)
fn width(text: &str) -> usize {
    text.chars().count()
}

fn visible(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[
            ("target", Align::Left),
            ("p99", Align::Right),
            ("nothing", Align::Right),
            ("remark", Align::Left),
        ]);
        table.title("fan-out");
        table.row(["fluxar".into(), "42.0 µs".into()]);
        table.row([
            "x".into(),
            TableCell::new("1.25 ms", Tone::Bad),
            "".into(),
            "slow".into(),
        ]);
        table.title("calls");
        table.row(["".into(), "9 µs".into()]);
        table
    }

    #[test]
    fn columns_line_up_and_empty_ones_go() {
        let expected = "\
target      p99  remark
fan-out
fluxar  42.0 µs
x       1.25 ms  slow

calls
           9 µs
";
        assert_eq!(table().render(false), expected);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let drawn = table().render(true);
        assert!(drawn.contains("\x1b[1;31m1.25 ms\x1b[0m  slow"), "{drawn:?}");
        let mut plain = String::new();
        let mut parts = drawn.split("\x1b[");
        plain.push_str(parts.next().unwrap_or(""));
        for part in parts {
            plain.push_str(part.split_once('m').expect("a colour ends").1);
        }
        assert_eq!(plain, table().render(false));
    }

    #[test]
    fn a_server_cannot_drive_the_terminal() {
        let mut table = Table::new(&[("version", Align::Left)]);
        table.row(["1.0\x1b[2J\r\n".into()]);
        assert_eq!(table.render(false), "version\n1.0\u{fffd}[2J\u{fffd}\u{fffd}\n");
    }
}
