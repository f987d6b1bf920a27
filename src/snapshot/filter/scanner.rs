//! Cuts a filter into tokens.

/// A token's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    End,
    Quoted,
    Value,
    Field,
    /// A comma or a dot.
    Separator,
    /// Any run of `=`, `!` and `~`.
    Operator,
    /// See [`Scanner::error`].
    Illegal,
    /// A character that starts no token.
    Other,
}

/// What stands at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rune {
    Char(char),
    End,
    /// A NUL.
    Illegal,
}

/// A token with its place and text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned<'a> {
    pub(super) at: usize,
    pub(super) token: Token,
    pub(super) text: &'a str,
}

/// Walks over the input once. Whether a run of characters is a field or a value depends on what
/// came before: after an operator it is a value.
pub(super) struct Scanner<'a> {
    input: &'a str,
    /// Start of the rune read last.
    at: usize,
    /// Start of the next one.
    next: usize,
    value_expected: bool,
    error: Option<&'static str>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self { input, at: 0, next: 0, value_expected: false, error: None }
    }

    /// The first error met.
    pub(super) fn error(&self) -> &'static str {
        self.error.unwrap_or("illegal input")
    }

    /// Where the next rune starts.
    pub(super) fn position(&self) -> usize {
        self.next
    }

    /// The next rune, which stays to be read.
    pub(super) fn peek(&self) -> Rune {
        match self.input[self.next..].chars().next() {
            None => Rune::End,
            Some('\0') => Rune::Illegal,
            Some(c) => Rune::Char(c),
        }
    }

    fn advance(&mut self) -> Rune {
        let rune = self.peek();
        self.at = self.next;
        match rune {
            Rune::Char(c) => self.next += c.len_utf8(),
            Rune::End => {}
            Rune::Illegal => {
                self.next += 1;
                self.fail("unexpected null");
            }
        }
        rune
    }

    /// The next token.
    pub(super) fn scan(&mut self) -> Scanned<'a> {
        let mut rune = self.advance();
        while matches!(rune, Rune::Char(c) if c.is_whitespace()) {
            rune = self.advance();
        }
        let at = self.at;
        let token = match rune {
            Rune::End => return Scanned { at, token: Token::End, text: "" },
            Rune::Illegal => return Scanned { at, token: Token::Illegal, text: "" },
            Rune::Char(quote @ ('/' | '|' | '"')) => self.scan_quoted(quote),
            Rune::Char(',' | '.') => {
                self.value_expected = false;
                Token::Separator
            }
            Rune::Char('=' | '!' | '~') => {
                self.skip_while(|c| matches!(c, '=' | '!' | '~'));
                self.value_expected = true;
                Token::Operator
            }
            Rune::Char(_) if self.value_expected => {
                self.skip_while(is_value);
                self.value_expected = false;
                Token::Value
            }
            Rune::Char(c) if is_field(c) => {
                self.skip_while(is_field);
                Token::Field
            }
            Rune::Char(_) => return Scanned { at, token: Token::Other, text: "" },
        };
        Scanned { at, token, text: &self.input[at..self.next] }
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while matches!(self.peek(), Rune::Char(c) if wanted(c)) {
            self.advance();
        }
    }

    fn scan_quoted(&mut self, quote: char) -> Token {
        let mut legal = true;
        let mut rune = self.advance();
        while rune != Rune::Char(quote) {
            rune = match rune {
                Rune::End | Rune::Illegal | Rune::Char('\n') => {
                    self.fail("quoted literal not terminated");
                    return Token::Illegal;
                }
                Rune::Char('\\') => {
                    let (rune, escape_legal) = self.scan_escape(quote);
                    legal &= escape_legal;
                    rune
                }
                Rune::Char(_) => self.advance(),
            };
        }
        if legal { Token::Quoted } else { Token::Illegal }
    }

    /// After a backslash: gives the rune behind the escape sequence, and whether the sequence is
    /// one.
    fn scan_escape(&mut self, quote: char) -> (Rune, bool) {
        let rune = self.advance();
        match rune {
            Rune::Char('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => (self.advance(), true),
            Rune::Char(c) if c == quote => (self.advance(), true),
            Rune::Char('0'..='7') => self.scan_digits(rune, 8, 3),
            Rune::Char('x') => self.scan_escape_digits(2),
            Rune::Char('u') => self.scan_escape_digits(4),
            Rune::Char('U') => self.scan_escape_digits(8),
            _ => {
                self.fail("illegal escape sequence");
                (rune, false)
            }
        }
    }

    fn scan_escape_digits(&mut self, digits: usize) -> (Rune, bool) {
        let first = self.advance();
        self.scan_digits(first, 16, digits)
    }

    fn scan_digits(&mut self, mut rune: Rune, base: u32, digits: usize) -> (Rune, bool) {
        for _ in 0..digits {
            if !matches!(rune, Rune::Char(c) if c.is_digit(base)) {
                self.fail("illegal numeric escape sequence");
                return (rune, false);
            }
            rune = self.advance();
        }
        (rune, true)
    }

    fn fail(&mut self, error: &'static str) {
        self.error.get_or_insert(error);
    }
}

fn is_field(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// What can be seen: Go's "graphic" characters, but for format characters, which std can't tell.
fn is_value(c: char) -> bool {
    c != ',' && !c.is_whitespace() && !c.is_control()
}
