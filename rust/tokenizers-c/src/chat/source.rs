//! The source of a template as minijinja gets it. Three things are Jinja's or
//! Python's that it has otherwise, and all are spelt in its own words here:
//! `{% generation %}` is a scope, or one whose text is told, `~ + * %` are calls of functions with Python's
//! meaning, and long text between tags is a variable, so that all of it that is
//! written is counted.

use std::ops::Range;

use minijinja::machinery::{ast, parse, tokenize, Token, WhitespaceConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::Error;

use super::python::wrong;

pub const WHITESPACE: WhitespaceConfig = WhitespaceConfig {
    keep_trailing_newline: false,
    lstrip_blocks: true,
    trim_blocks: true,
};

/// Text between tags that may stay where it is.
const SHORT: usize = 256;

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Concat,
    Add,
    Mul,
    Rem,
}

impl Op {
    fn function(self) -> &'static str {
        match self {
            Op::Concat => "__concat",
            Op::Add => "__add",
            Op::Mul => "__mul",
            Op::Rem => "__rem",
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Op(Op),
    Minus,
    Divide,
    Other,
}

struct Piece {
    sign: Sign,
    range: Range<usize>,
    depth: usize,
}

fn tokens(source: &str) -> Result<Vec<(Token<'_>, Range<usize>)>, Error> {
    tokenize(source, false, SyntaxConfig::default(), WHITESPACE)
        .map(|token| {
            let (token, span) = token?;
            Ok((token, span.start_offset as usize..span.end_offset as usize))
        })
        .collect()
}

/// `edits` are in order and apart.
fn edited(source: &str, edits: Vec<(Range<usize>, String)>) -> String {
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    for (range, text) in edits {
        out.push_str(&source[at..range.start]);
        out.push_str(&text);
        at = range.end;
    }
    out + &source[at..]
}

/// What stands for `{% generation %}` and its end.
fn scope(told: bool) -> (&'static str, &'static str) {
    if told {
        (
            "with %}{% set __generated",
            "endset %}{{ __generation(__generated) }}{% endwith",
        )
    } else {
        ("with", "endwith")
    }
}

/// `{% generation %}`, and text between tags put into `raw`. Also whether there
/// was such a tag.
fn without_tags(source: &str, told: bool, raw: &mut Vec<String>) -> Result<(String, bool), Error> {
    let mut edits = Vec::new();
    let mut behind = 0;
    let mut opens = false;
    let mut generates = false;
    let (begin, end) = scope(told);
    for (token, range) in tokens(source)? {
        match token {
            Token::Ident("generation") if opens => {
                generates = true;
                edits.push((range.clone(), begin.into()));
            }
            Token::Ident("endgeneration") if opens => edits.push((range.clone(), end.into())),
            Token::TemplateData(data) if data.len() > SHORT => {
                let start = data.as_ptr() as usize - source.as_ptr() as usize;
                // In a raw block a variable would be text.
                if source[behind..start].contains("raw") {
                    return Err(wrong(format!("a raw block of more than {SHORT} bytes")));
                }
                let core = data.trim();
                let start = core.as_ptr() as usize - source.as_ptr() as usize;
                if core.len() > SHORT {
                    edits.push((
                        start..start + core.len(),
                        format!("{{{{ __raw[{}] }}}}", raw.len()),
                    ));
                    raw.push(core.to_owned());
                }
            }
            _ => {}
        }
        opens = matches!(token, Token::BlockStart);
        behind = range.end;
    }
    Ok((edited(source, edits), generates))
}

fn pieces(source: &str) -> Result<Vec<Piece>, Error> {
    let mut depth = 0usize;
    let mut pieces = Vec::new();
    for (token, range) in tokens(source)? {
        let sign = match token {
            Token::Tilde => Sign::Op(Op::Concat),
            Token::Plus => Sign::Op(Op::Add),
            Token::Mul => Sign::Op(Op::Mul),
            Token::Mod => Sign::Op(Op::Rem),
            Token::Minus => Sign::Minus,
            Token::Div | Token::FloorDiv => Sign::Divide,
            _ => Sign::Other,
        };
        let closes = matches!(
            token,
            Token::ParenClose | Token::BracketClose | Token::BraceClose
        );
        depth = depth.saturating_sub(usize::from(closes));
        pieces.push(Piece { sign, range, depth });
        let opens = matches!(
            token,
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen
        );
        depth += usize::from(opens);
    }
    Ok(pieces)
}

/// Where the operators of the syntax tree lie in the source.
#[derive(Default)]
struct Walk {
    found: Vec<(Range<usize>, Op)>,
}

impl Walk {
    fn body(&mut self, body: &[ast::Stmt]) {
        body.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &ast::Stmt) {
        use ast::Stmt;
        match stmt {
            Stmt::Template(s) => self.body(&s.children),
            Stmt::EmitExpr(s) => self.expr(&s.expr),
            Stmt::ForLoop(s) => {
                self.expr(&s.iter);
                self.exprs(&s.filter_expr);
                self.body(&s.body);
                self.body(&s.else_body);
            }
            Stmt::IfCond(s) => {
                self.expr(&s.expr);
                self.body(&s.true_body);
                self.body(&s.false_body);
            }
            Stmt::WithBlock(s) => {
                self.exprs(s.assignments.iter().map(|(_, value)| value));
                self.body(&s.body);
            }
            Stmt::Set(s) => self.expr(&s.expr),
            Stmt::SetBlock(s) => {
                self.exprs(&s.filter);
                self.body(&s.body);
            }
            Stmt::AutoEscape(s) => {
                self.expr(&s.enabled);
                self.body(&s.body);
            }
            Stmt::FilterBlock(s) => {
                self.expr(&s.filter);
                self.body(&s.body);
            }
            Stmt::Macro(s) => {
                self.exprs(&s.defaults);
                self.body(&s.body);
            }
            Stmt::CallBlock(s) => {
                self.expr(&s.call.expr);
                self.args(&s.call.args);
                self.exprs(&s.macro_decl.defaults);
                self.body(&s.macro_decl.body);
            }
            Stmt::Do(s) => {
                self.expr(&s.call.expr);
                self.args(&s.call.args);
            }
            Stmt::Block(s) => self.body(&s.body),
            // Of other templates, and there are none.
            Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {}
            Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
        }
    }

    fn exprs<'a, 's: 'a>(&mut self, exprs: impl IntoIterator<Item = &'a ast::Expr<'s>>) {
        exprs.into_iter().for_each(|expr| self.expr(expr));
    }

    fn args(&mut self, args: &[ast::CallArg]) {
        use ast::CallArg;
        for arg in args {
            match arg {
                CallArg::Pos(e)
                | CallArg::Kwarg(_, e)
                | CallArg::PosSplat(e)
                | CallArg::KwargSplat(e) => {
                    self.expr(e);
                }
            }
        }
    }

    fn expr(&mut self, expr: &ast::Expr) {
        use ast::Expr;
        match expr {
            Expr::Var(_) | Expr::Const(_) => {}
            Expr::Slice(e) => {
                self.expr(&e.expr);
                self.exprs(e.start.iter().chain(&e.stop).chain(&e.step));
            }
            Expr::UnaryOp(e) => self.expr(&e.expr),
            Expr::BinOp(e) => {
                let op = match e.op {
                    ast::BinOpKind::Concat => Some(Op::Concat),
                    ast::BinOpKind::Add => Some(Op::Add),
                    ast::BinOpKind::Mul => Some(Op::Mul),
                    ast::BinOpKind::Rem => Some(Op::Rem),
                    _ => None,
                };
                if let Some(op) = op {
                    let span = e.span();
                    self.found
                        .push((span.start_offset as usize..span.end_offset as usize, op));
                }
                self.expr(&e.left);
                self.expr(&e.right);
            }
            Expr::Compare(e) => {
                self.expr(&e.expr);
                self.exprs(e.ops.iter().map(|op| &op.expr));
            }
            Expr::IfExpr(e) => {
                self.exprs([&e.test_expr, &e.true_expr]);
                self.exprs(&e.false_expr);
            }
            Expr::Filter(e) => {
                self.exprs(&e.expr);
                self.args(&e.args);
            }
            Expr::Test(e) => {
                self.expr(&e.expr);
                self.args(&e.args);
            }
            Expr::GetAttr(e) => self.expr(&e.expr),
            Expr::GetItem(e) => self.exprs([&e.expr, &e.subscript_expr]),
            Expr::Call(e) => {
                self.expr(&e.expr);
                self.args(&e.args);
            }
            Expr::List(e) => self.exprs(&e.items),
            Expr::Map(e) => self.exprs(e.keys.iter().chain(&e.values)),
        }
    }
}

struct Rewriter<'a> {
    source: &'a str,
    pieces: Vec<Piece>,
    ops: Vec<(Range<usize>, Op)>, // outer ones first
}

impl Rewriter<'_> {
    fn operands(&self, range: &Range<usize>, op: Op) -> Vec<Range<usize>> {
        let first = self
            .pieces
            .partition_point(|piece| piece.range.start < range.start);
        let depth = self.pieces.get(first).map_or(0, |piece| piece.depth);
        let mut cuts: Vec<&Range<usize>> = Vec::new();
        for piece in &self.pieces[first..] {
            if piece.range.start >= range.end {
                break;
            }
            if piece.depth != depth {
                continue;
            }
            // All at one level bind from the left: what stands before another
            // operator of the level is the first operand.
            let level = match op {
                Op::Concat => false,
                Op::Add => piece.sign == Sign::Minus,
                Op::Mul => matches!(piece.sign, Sign::Divide | Sign::Op(Op::Rem)),
                Op::Rem => matches!(piece.sign, Sign::Divide | Sign::Op(Op::Mul)),
            };
            if level {
                cuts.clear();
            } else if piece.sign == Sign::Op(op) {
                cuts.push(&piece.range);
            }
        }
        let mut operands = Vec::new();
        let mut at = range.start;
        for cut in cuts {
            operands.push(at..cut.start);
            at = cut.end;
        }
        operands.push(at..range.end);
        operands
    }

    fn write(&self, range: Range<usize>, out: &mut String) {
        let mut at = range.start;
        let first = self.ops.partition_point(|(op, _)| op.start < range.start);
        for (op, kind) in &self.ops[first..] {
            if op.start >= range.end {
                break;
            }
            if op.start < at || op.end > range.end {
                continue;
            }
            let operands = self.operands(op, *kind);
            if operands.len() < 2 {
                continue;
            }
            out.push_str(&self.source[at..op.start]);
            out.push_str(kind.function());
            for (i, operand) in operands.into_iter().enumerate() {
                out.push(if i > 0 { ',' } else { '(' });
                self.write(operand, out);
            }
            out.push(')');
            at = op.end;
        }
        out.push_str(&self.source[at..range.end]);
    }
}

pub struct Rewritten {
    pub source: String,
    /// The texts of `__raw`.
    pub raw: Vec<String>,
    /// Whether it has `{% generation %}`.
    pub generates: bool,
}

/// The source for minijinja. `told`: `__generation` is called with what each
/// `{% generation %}` holds.
pub fn rewritten(source: &str, told: bool) -> Result<Rewritten, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut raw = Vec::new();
    let (source, generates) = without_tags(&source, told, &mut raw)?;
    let mut walk = Walk::default();
    walk.stmt(&parse(
        &source,
        "template",
        SyntaxConfig::default(),
        WHITESPACE,
    )?);
    let mut ops = walk.found;
    ops.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
    let rewriter = Rewriter {
        pieces: pieces(&source)?,
        source: &source,
        ops,
    };
    let mut out = String::with_capacity(source.len() * 2);
    rewriter.write(0..source.len(), &mut out);
    Ok(Rewritten {
        source: out,
        raw,
        generates,
    })
}
