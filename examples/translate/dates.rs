//! Dates as people write and say them in four languages, and as computers write them.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

#[derive(Clone, Copy)]
struct Date {
    year: usize,
    month: usize,
    day: usize,
}

const DAYS: [usize; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Date {
    fn draw(generator: &mut ChaCha8Rng) -> Self {
        let (year, month) = (generator.random_range(1900..2100), generator.random_range(0..12));
        let is_leap = year % 4 == 0 && year != 1900;
        let days = DAYS[month] - usize::from(month == 1 && !is_leap);
        Self {
            year,
            month,
            day: generator.random_range(1..=days),
        }
    }

    fn digits(self) -> String {
        format!("{}-{:02}-{:02}", self.year, self.month + 1, self.day)
    }
}

/// A date in a language of four and one of its styles, and the same as year, month and day.
pub(crate) fn draw(generator: &mut ChaCha8Rng) -> (String, String) {
    let date = Date::draw(generator);
    let style = generator.random_range(0..3);
    let text = match generator.random_range(0..4) {
        0 => english(date, style),
        1 => german(date, style),
        2 => french(date, style),
        _ => spanish(date, style),
    };
    (text, date.digits())
}

fn english(Date { year, month, day }: Date, style: u8) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let month = MONTHS[month];
    match style {
        0 => format!("{month} {day}, {year}"),
        1 => format!("{day} {} {year}", &month[..3]),
        _ => format!("{month} {}, {}", english_ordinal(day), english_year(year)),
    }
}

const ENGLISH: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const ENGLISH_TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

fn english_number(number: usize) -> String {
    match (number / 10, number % 10) {
        (0 | 1, _) => ENGLISH[number].to_owned(),
        (tens, 0) => ENGLISH_TENS[tens].to_owned(),
        (tens, ones) => format!("{}-{}", ENGLISH_TENS[tens], ENGLISH[ones]),
    }
}

fn english_ordinal(number: usize) -> String {
    let ordinals = [
        ("one", "first"),
        ("two", "second"),
        ("three", "third"),
        ("five", "fifth"),
        ("eight", "eighth"),
        ("nine", "ninth"),
        ("twelve", "twelfth"),
        ("y", "ieth"),
    ];
    let word = english_number(number);
    for (end, ordinal) in ordinals {
        if let Some(start) = word.strip_suffix(end) {
            return format!("{start}{ordinal}");
        }
    }
    word + "th"
}

fn english_year(year: usize) -> String {
    match (year / 100, year % 100) {
        (20, 0) => "two thousand".to_owned(),
        (20, ones @ 1..10) => format!("two thousand {}", ENGLISH[ones]),
        (century, 0) => format!("{} hundred", english_number(century)),
        (century, ones @ 1..10) => format!("{} oh {}", english_number(century), ENGLISH[ones]),
        (century, rest) => format!("{} {}", english_number(century), english_number(rest)),
    }
}

fn german(Date { year, month, day }: Date, style: u8) -> String {
    const MONTHS: [&str; 12] = [
        "Januar",
        "Februar",
        "März",
        "April",
        "Mai",
        "Juni",
        "Juli",
        "August",
        "September",
        "Oktober",
        "November",
        "Dezember",
    ];
    match style {
        0 => format!("{day}. {} {year}", MONTHS[month]),
        1 => format!("{day:02}.{:02}.{year}", month + 1),
        _ => format!("{} {} {}", german_ordinal(day), MONTHS[month], german_year(year)),
    }
}

/// With `ein` where a word follows, and `eins` at the end.
fn german_number(number: usize, one: &str) -> String {
    const SMALL: [&str; 20] = [
        "",
        "",
        "zwei",
        "drei",
        "vier",
        "fünf",
        "sechs",
        "sieben",
        "acht",
        "neun",
        "zehn",
        "elf",
        "zwölf",
        "dreizehn",
        "vierzehn",
        "fünfzehn",
        "sechzehn",
        "siebzehn",
        "achtzehn",
        "neunzehn",
    ];
    const TENS: [&str; 10] = [
        "", "", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig",
    ];
    match (number / 10, number % 10) {
        (0, 1) => one.to_owned(),
        (0 | 1, _) => SMALL[number].to_owned(),
        (tens, 0) => TENS[tens].to_owned(),
        (tens, ones) => format!("{}und{}", german_number(ones, "ein"), TENS[tens]),
    }
}

fn german_ordinal(number: usize) -> String {
    match number {
        1 => "erster".to_owned(),
        3 => "dritter".to_owned(),
        7 => "siebter".to_owned(),
        8 => "achter".to_owned(),
        ..20 => german_number(number, "") + "ter",
        _ => german_number(number, "") + "ster",
    }
}

fn german_year(year: usize) -> String {
    let century = if year < 2000 { "neunzehnhundert" } else { "zweitausend" };
    format!("{century}{}", german_number(year % 100, "eins"))
}

fn french(Date { year, month, day }: Date, style: u8) -> String {
    const MONTHS: [&str; 12] = [
        "janvier",
        "février",
        "mars",
        "avril",
        "mai",
        "juin",
        "juillet",
        "août",
        "septembre",
        "octobre",
        "novembre",
        "décembre",
    ];
    let month_name = MONTHS[month];
    match style {
        0 if day == 1 => format!("1er {month_name} {year}"),
        0 => format!("{day} {month_name} {year}"),
        1 => format!("{day:02}/{:02}/{year}", month + 1),
        _ => {
            let day = if day == 1 { "premier".to_owned() } else { french_number(day) };
            let century = if year < 2000 { "mille neuf cent" } else { "deux mille" };
            format!("le {day} {month_name} {century} {}", french_number(year % 100))
                .trim_end()
                .to_owned()
        }
    }
}

fn french_number(number: usize) -> String {
    const SMALL: [&str; 20] = [
        "", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize", "quatorze", "quinze",
        "seize", "dix-sept", "dix-huit", "dix-neuf",
    ];
    const TENS: [&str; 10] = [
        "",
        "",
        "vingt",
        "trente",
        "quarante",
        "cinquante",
        "soixante",
        "soixante",
        "quatre-vingt",
        "quatre-vingt",
    ];
    let tens = number / 10;
    // Seventy and ninety go on with ten and what follows it.
    let rest = if tens == 7 || tens == 9 { number % 10 + 10 } else { number % 10 };
    match (tens, rest) {
        (0 | 1, _) => SMALL[number].to_owned(),
        (8, 0) => "quatre-vingts".to_owned(),
        (_, 0) => TENS[tens].to_owned(),
        (2..=7, 1 | 11) => format!("{} et {}", TENS[tens], SMALL[rest]),
        _ => format!("{}-{}", TENS[tens], SMALL[rest]),
    }
}

fn spanish(Date { year, month, day }: Date, style: u8) -> String {
    const MONTHS: [&str; 12] = [
        "enero",
        "febrero",
        "marzo",
        "abril",
        "mayo",
        "junio",
        "julio",
        "agosto",
        "septiembre",
        "octubre",
        "noviembre",
        "diciembre",
    ];
    let month_name = MONTHS[month];
    match style {
        0 => format!("{day} de {month_name} de {year}"),
        1 => format!("{day}-{}-{year}", &month_name[..3]),
        _ => {
            let century = if year < 2000 { "mil novecientos" } else { "dos mil" };
            let text = format!(
                "{} de {month_name} de {century} {}",
                spanish_number(day),
                spanish_number(year % 100)
            );
            text.trim_end().to_owned()
        }
    }
}

fn spanish_number(number: usize) -> String {
    const SMALL: [&str; 30] = [
        "",
        "uno",
        "dos",
        "tres",
        "cuatro",
        "cinco",
        "seis",
        "siete",
        "ocho",
        "nueve",
        "diez",
        "once",
        "doce",
        "trece",
        "catorce",
        "quince",
        "dieciséis",
        "diecisiete",
        "dieciocho",
        "diecinueve",
        "veinte",
        "veintiuno",
        "veintidós",
        "veintitrés",
        "veinticuatro",
        "veinticinco",
        "veintiséis",
        "veintisiete",
        "veintiocho",
        "veintinueve",
    ];
    const TENS: [&str; 10] = [
        "",
        "",
        "",
        "treinta",
        "cuarenta",
        "cincuenta",
        "sesenta",
        "setenta",
        "ochenta",
        "noventa",
    ];
    match (number / 10, number % 10) {
        (..3, _) => SMALL[number].to_owned(),
        (tens, 0) => TENS[tens].to_owned(),
        (tens, ones) => format!("{} y {}", TENS[tens], SMALL[ones]),
    }
}
