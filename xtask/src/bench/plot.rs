//! Bar charts as SVG.

use std::fmt::Write;

use super::table::digits;

/// Of the bars of a group, in order.
const COLORS: [&str; 9] =
    ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#79706e"];

const WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 50.0;
const LEGEND_ROW: f64 = 20.0;
/// Entries of the legend side by side.
const LEGEND_COLUMNS: usize = 4;

/// Groups of bars, a bar of each name in each.
pub struct Chart {
    pub title: String,
    pub unit: String,
    /// What the bars of a group have in common.
    pub groups: Vec<String>,
    /// Names and their values, one for each group.
    pub bars: Vec<(String, Vec<Option<f64>>)>,
}

impl Chart {
    /// As a document of its own.
    pub fn svg(&self) -> String {
        let most = self.bars.iter().flat_map(|(_, values)| values).flatten().copied().fold(0.0, f64::max);
        let (step, top) = axis(most);
        let height = TOP + PLOT_HEIGHT + 50.0 + LEGEND_ROW * self.bars.len().div_ceil(LEGEND_COLUMNS) as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, WIDTH / 2.0, 20.0, "middle", &format!("{} ({})", self.title, self.unit));
        let y = |value: f64| TOP + PLOT_HEIGHT * (1.0 - value / top);
        for line in 0..=(top / step).round() as u32 {
            let value = step * f64::from(line);
            let at = y(value);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", WIDTH - 10.0);
            text(&mut svg, LEFT - 6.0, at + 4.0, "end", &format!("{value}"));
        }
        let group_width = (WIDTH - LEFT - 20.0) / self.groups.len().max(1) as f64;
        let bar_width = group_width * 0.85 / self.bars.len().max(1) as f64;
        for (at, group) in self.groups.iter().enumerate() {
            let left = LEFT + 10.0 + group_width * at as f64;
            text(&mut svg, left + group_width * 0.425, TOP + PLOT_HEIGHT + 20.0, "middle", group);
            for (number, (name, values)) in self.bars.iter().enumerate() {
                let Some(value) = values.get(at).copied().flatten() else { continue };
                let (x, at) = (left + bar_width * number as f64, y(value));
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{at:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}: {}\
                     </title></rect>",
                    bar_width * 0.9,
                    TOP + PLOT_HEIGHT - at,
                    color(number),
                    escaped(name),
                    digits(value),
                );
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"9\">{}</text>",
                    x + bar_width * 0.45,
                    at - 3.0,
                    digits(value),
                );
            }
        }
        for (number, (name, _)) in self.bars.iter().enumerate() {
            let x = LEFT + 200.0 * (number % LEGEND_COLUMNS) as f64;
            let y = TOP + PLOT_HEIGHT + 40.0 + LEGEND_ROW * (number / LEGEND_COLUMNS) as f64;
            let fill = color(number);
            let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>");
            text(&mut svg, x + 18.0, y + 11.0, "start", name);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Distance of the lines of an axis, 1, 2 or 5 times a power of ten, and the first line not below `most`.
fn axis(most: f64) -> (f64, f64) {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| most / step <= 6.0);
    let step = step.unwrap_or(10.0 * power);
    (step, (most / step).ceil() * step)
}

fn color(number: usize) -> &'static str {
    COLORS[number % COLORS.len()]
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escaped(text);
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_numbers() {
        assert_eq!(axis(3.9), (1.0, 4.0));
        assert_eq!(axis(11_300.0), (2000.0, 12_000.0));
        assert_eq!(axis(0.0).1, 1.0);
        assert_eq!(axis(30.0), (5.0, 30.0));
    }

    #[test]
    fn there_is_a_bar_for_each_value() {
        let chart = Chart {
            title: "a < b".into(),
            unit: "ns".into(),
            groups: vec!["64".into(), "512".into()],
            bars: vec![("x".into(), vec![Some(1.0), Some(2.0)]), ("y".into(), vec![None, Some(4.0)])],
        };
        let svg = chart.svg();
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(svg.contains("a &lt; b (ns)"));
        assert!(
            svg.contains(&format!("height=\"{PLOT_HEIGHT:.1}\" fill=\"{}\"", COLORS[1])),
            "the highest is whole"
        );
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
