// @ts-check
/** Geometry of the grid: the largest tiles with which all participants are visible, and how a picture is cropped to its tile. */

/** Faces are not recognisable in smaller tiles: the grid scrolls instead. */
const TILE_MIN = { width: 120, height: 90 };
/** Minimum visible share of a landscape picture in a portrait tile: people are usually in the middle. */
const VISIBLE_WIDTH_MIN = 0.56;
/** Minimum visible share of a portrait picture in a landscape tile: a face may be in its upper part. */
const VISIBLE_HEIGHT_MIN = 0.8;

/**
 * @param {number} count
 * @param {{ width: number, height: number, gap: number }} space `gap`: between tiles.
 * @param {boolean} isWide Whether most pictures are in landscape format.
 * @returns {{ width: number, height: number, scrolls: boolean }} The size of one tile, and whether not all tiles fit.
 */
export function tileSize(count, { width, height, gap }, isWide) {
  // In portrait orientation, portrait pictures may be cropped to 3:4; landscape pictures only to a square, because less would
  // remain. A single tile may be as narrow as 9:16.
  const upright = isWide ? 1 : count === 1 ? 9 / 16 : 3 / 4;
  const [narrowest, widest] = width < height ? [upright, 16 / 9] : [1, 16 / 9];
  let best = { width: 0, height: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const room = { width: (width - gap * (columns - 1)) / columns, height: (height - gap * (rows - 1)) / rows };
    const tile = {
      width: Math.min(room.width, room.height * widest),
      height: Math.min(room.height, room.width / narrowest),
    };
    if (tile.width * tile.height > best.width * best.height) best = tile;
  }
  const scrolls = count > 1 && (best.width < TILE_MIN.width || best.height < TILE_MIN.height);
  if (scrolls) {
    const columns = Math.max(1, Math.min(count, Math.floor((width + gap) / (TILE_MIN.width + gap))));
    best.width = (width - gap * (columns - 1)) / columns;
    best.height = Math.max(TILE_MIN.height, best.width * (3 / 4));
  }
  // Rounded down: half a pixel too many would push a tile into another row.
  return { width: Math.max(0, Math.floor(best.width)), height: Math.max(0, Math.floor(best.height)), scrolls };
}

/**
 * The box that a cropped picture fills: the whole tile if enough of the picture stays visible, otherwise the part of the tile
 * in which enough is visible.
 * @param {number} picture Width by height.
 * @param {number} tile Width by height.
 * @returns {{ width: number, height: number }} Shares of the tile.
 */
export function pictureBox(picture, tile) {
  if (tile < picture) return { width: 1, height: Math.min(1, tile / (picture * VISIBLE_WIDTH_MIN)) };
  return { width: Math.min(1, picture / (VISIBLE_HEIGHT_MIN * tile)), height: 1 };
}
